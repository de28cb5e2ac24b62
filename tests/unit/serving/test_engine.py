"""The engine over a worker of this process: what real ones would make hard to time."""

import asyncio

import pytest

from neural_condense_core.condensers.echo import EchoCondenser
from neural_condense_core.errors import UnavailableError
from neural_condense_core.serving.cache import AnswerCache
from neural_condense_core.serving.engine import Engine
from neural_condense_core.serving.jobs import Loaded, Progress, WorkerSpec
from neural_condense_core.serving.worker import Worker
from neural_condense_core.wire.codec import JSON

SPEC = WorkerSpec("echo", None, None, None, "auto", "cpu", 1, 10_000, (16,))
LOADED = Loaded("echo", "toy", 64, None, 4.0, None, (), {}, "r1")


class FakeHand:
    """Answers in this process, after a while."""

    def __init__(self, index, spec, on_lost):
        self.index = index
        self.progress = Progress(0, "ready", 1.0)
        self.alive = True
        self.revision = "r1"
        self.seconds = 0.0
        self.batches = []
        self.closed = asyncio.Event()

    async def load(self):
        return LOADED

    def mark_ready(self):
        pass

    async def run(self, jobs, limit_s):
        self.batches.append(len(jobs))
        await asyncio.sleep(self.seconds)
        return Worker(EchoCondenser("toy"), 4.0, 10_000, self.revision).answer(jobs)

    async def close(self):
        self.alive = False
        self.closed.set()


def with_engine(main, **kwargs):
    """Run ``main(engine, hand)`` with an engine that is ready."""
    hands = []

    def make_hand(*args):
        hands.append(FakeHand(*args))
        return hands[-1]

    async def go():
        ready = asyncio.Event()
        engine = Engine(
            [SPEC],
            max_queued_tokens=100_000,
            timeout_s=5.0,
            make_hand=make_hand,
            on_loaded=lambda loaded: ready.set(),
            **{"max_batch_tokens": 16, **kwargs},
        )
        engine.start()
        try:
            await asyncio.wait_for(ready.wait(), 20)
            await asyncio.wait_for(main(engine, hands[0]), 20)
        finally:
            await engine.close()

    asyncio.run(go())


def ask(engine, text):
    return engine.condense(text, JSON, deadline_s=asyncio.get_running_loop().time() + 5.0)


@pytest.mark.parametrize(("revision", "hits"), [("r1", 1), ("r2", 0)])
def test_an_answer_by_other_weights_than_were_asked_for_is_not_kept(revision, hits):
    async def main(engine, hand):
        hand.revision = revision
        first = await ask(engine, "the same text")
        again = await ask(engine, "the same text")
        assert first.headers["X-Condense-Model-Revision"] == revision
        assert len(hand.batches) == 2 - hits
        assert ("X-Condense-Cache" in again.headers) == bool(hits)

    with_engine(main, cache=AnswerCache())


def test_who_is_still_counted_when_the_workers_end_is_told_at_once():
    async def main(engine, hand):
        counting = asyncio.Event()
        count_now = engine._tokenizer.count_now

        async def count(context):
            counting.set()
            await hand.closed.wait()
            return count_now(context)

        engine._tokenizer.count_now = lambda context: None
        engine._tokenizer.count = count
        asking = asyncio.create_task(ask(engine, "a text"))
        await counting.wait()
        await engine.close()
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(asking, 2)

    with_engine(main)


@pytest.mark.parametrize(
    ("seconds", "max_brief_tokens", "is_beyond"),
    [(0.0, 10_000, True), (0.0, 0, False), (0.05, 10_000, False)],
    ids=["quick", "quick, but bounded", "slow"],
)
def test_batches_that_take_hardly_any_time_go_beyond_their_budget(
    seconds, max_brief_tokens, is_beyond
):
    async def main(engine, hand):
        hand.seconds = seconds
        for number in range(3):
            await ask(engine, f"warm-up {number:05}")
        hand.batches.clear()
        await asyncio.gather(*(ask(engine, f"context {number:05}") for number in range(21)))
        assert (max(hand.batches) > 1) == is_beyond

    with_engine(main, max_brief_tokens=max_brief_tokens)
