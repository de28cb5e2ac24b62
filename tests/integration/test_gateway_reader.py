"""The reader as a process: answers, is cancelled, hangs, dies and comes again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time

import numpy as np
import pytest

from neural_condense_core.errors import (
    ContextWindowError,
    NeuralCondenseError,
    OverloadedError,
    TargetModelError,
    UnavailableError,
    UnsupportedError,
)
from neural_condense_core.gateway.reader import Reader
from neural_condense_core.gateway.reader_messages import (
    Begun,
    Cancel,
    Ended,
    Estimate,
    Estimated,
    Lines,
    Measure,
    Read,
    ReaderSpec,
)
from neural_condense_core.gateway.reading import Reading
from neural_condense_core.llm.base import GREEDY, Piece
from neural_condense_core.tokens import CondensedTokens

SPEC = ReaderSpec("gateway_engine:open_toy", "toy")
WAIT_S = 60.0


def tokens(n=3):
    return CondensedTokens(np.zeros((n, 64), np.float32), "toy", 4 * n)


def read(*parts, role="user", longest=1000):
    return Read((Lines(role, parts),), longest, 100, GREEDY)


@contextlib.asynccontextmanager
async def reading(spec=SPEC, *, ready=True, **options):
    found = Reading(spec, **{"max_waiting": 4, **options})
    found.start()
    try:
        if ready:
            await until(lambda: found.state == "ready")
        yield found
    finally:
        await found.close()


async def until(condition):
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - what it waits for is the reader's own state
            await asyncio.sleep(0.02)


async def said(found, asked):
    pieces = [each async for each in found.read(asked)]
    assert isinstance(pieces[0], Begun)
    return "".join(each.text for each in pieces[1:]), pieces


def run(work):
    return asyncio.run(work())


def test_it_measures_estimates_and_reads_with_condensed_tokens_anywhere():
    async def go():
        async with reading() as found:
            lines = (Lines("system", ("be brief",)), Lines("user", ("Text: ", "why?")))
            measured = await found.measure(Measure(("be brief", "why?"), lines))
            assert measured.texts == (8, 4)
            assert measured.total == len("<system>be brief<user>Text: why?<assistant>")
            text, pieces = await said(found, read("Text: ", tokens(), " why?"))
            assert text == "<user>Text: ### why?<assistant>"
            assert pieces[0].n_prompt_tokens == len(text)
            assert pieces[-1].finish == "stop"
            plain, _ = await said(found, read("go ", "on ", tokens(2), role=""))
            assert plain == "go on ##"
            cut, pieces = await said(found, read("a long prompt", longest=4))
            assert (cut, pieces[-1].finish) == ("<use", "length")
            assert await found.estimate(Estimate("some text " * 9, tokens())) == pytest.approx(0.75)

    run(go)


def test_what_goes_wrong_stays_with_its_request(capfd):
    async def go():
        async with reading() as found:
            with pytest.raises(NeuralCondenseError) as caught:
                await said(found, read("RAISE the vault"))
            assert "vault" not in caught.value.message
            with pytest.raises(ContextWindowError):
                await said(found, read("x" * 5_000))
            assert (await said(found, read("fine", role="")))[0] == "fine"

    run(go)
    assert "vault" not in capfd.readouterr().err


def test_an_answer_that_nobody_wants_ends():
    async def go():
        async with reading() as found:
            pieces = found.read(read("SLOW " + "x" * 900))
            async for _ in pieces:
                break
            begun_s = time.monotonic()
            await pieces.aclose()
            text, _ = await said(found, read("next", role=""))
            assert text == "next"
            assert time.monotonic() - begun_s < 10  # the whole answer would take 45 s
            await until(lambda: not found._heard_s)

    run(go)


def test_too_many_prompts_are_refused_at_once():
    async def go():
        async with reading(max_waiting=1) as found:
            running = [found.read(read("SLOW text")) for _ in range(2)]
            first = [asyncio.create_task(anext(each)) for each in running]
            await asyncio.sleep(0.1)
            with pytest.raises(OverloadedError):
                await said(found, read("one more"))
            await first[0]
            for task, each in zip(first, running, strict=True):
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await each.aclose()

    run(go)


@pytest.mark.parametrize("word", ["CRASH", "HANG"])
def test_a_reader_that_dies_or_hangs_is_replaced(word):
    async def go():
        async with reading(silence_s=1.0) as found:
            before = found.pid
            with pytest.raises(UnavailableError):
                await said(found, read(word))
            await until(lambda: found.state == "ready" and found.pid != before)
            assert found.n_restarts == 1
            assert (await said(found, read("again", role="")))[0] == "again"

    run(go)


def test_a_hung_reader_is_found_though_its_asker_is_gone():
    async def go():
        async with reading(silence_s=1.0) as found:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await said(found, read("HANG"))
            await until(lambda: found.n_restarts == 1 and found.state == "ready")

    run(go)


def test_a_model_that_is_not_there_is_told_and_not_tried_again():
    async def go():
        failures = []
        spec = ReaderSpec(SPEC.engine, "missing")
        async with reading(spec, ready=False, on_failed=failures.append) as found:
            await until(lambda: found.state == "failed")
            assert isinstance(failures[0], TargetModelError)
            with pytest.raises(UnavailableError):
                await found.measure(Measure((), ()))

    run(go)


def test_a_reader_that_keeps_dying_is_given_up(monkeypatch):
    monkeypatch.setattr("neural_condense_core.gateway.reading.PAUSE_S", 0.01)
    monkeypatch.setattr("neural_condense_core.gateway.reading.MAX_LOAD_FAILURES", 2)

    async def go():
        failures = []
        spec = ReaderSpec(SPEC.engine, "dying")
        async with reading(spec, ready=False, on_failed=failures.append) as found:
            await until(lambda: found.state == "failed")
            assert "died" in failures[0].message

    run(go)


def test_an_engines_server_that_comes_late_is_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr("neural_condense_core.gateway.reading.PAUSE_S", 0.01)
    monkeypatch.setattr("neural_condense_core.gateway.reading.MAX_LOAD_FAILURES", 1)
    server = tmp_path / "server"

    async def go():
        failures = []
        spec = ReaderSpec(SPEC.engine, str(server))
        async with reading(spec, ready=False, on_failed=failures.append) as found:
            await until(lambda: found.failure is not None)
            first = found.pid
            await until(lambda: found.pid not in {None, first})
            assert found.state == "loading"
            server.touch()
            await until(lambda: found.state == "ready")
            assert (failures, found.failure) == ([], None)

    run(go)


class Parked:
    """A model whose answers wait, and that is told what it reads."""

    max_positions = 1_000

    def __init__(self):
        self.go = threading.Event()
        self.read = []
        self.n_estimates = 0

    def tokenize(self, text):
        return list(text.encode())

    def render_chat(self, messages):
        return "".join(each["content"] for each in messages)

    def stream(self, prompt, max_new_tokens, *, sampling=GREEDY, prefix=None):
        self.read.append(prompt)
        self.go.wait(WAIT_S)
        yield Piece("x", 1, "stop")

    def prefill(self, prompt):
        self.n_estimates += 1
        raise UnsupportedError("no likelihoods")


def test_what_is_cancelled_before_its_turn_does_not_pile_up():
    target, heard = Parked(), queue.SimpleQueue()
    reader = Reader(target, 1, lambda number, said: heard.put((number, said)))
    reader.take(1, read("first", role="", longest=9))
    for number in range(2, 50):
        reader.take(number, read("next", role="", longest=9))
        reader.take(number, Cancel())
    assert len(reader._waiting) <= 1
    target.go.set()
    ended = set()
    while len(ended) < 49:
        number, said_ = heard.get(timeout=WAIT_S)
        if isinstance(said_, Ended):
            ended.add(number)
    assert len(target.read) == 1
    assert reader._waiting == reader._cancelled == {}


def test_an_engine_that_cannot_estimate_is_asked_once():
    target, heard = Parked(), queue.SimpleQueue()
    reader = Reader(target, 1, lambda number, said: heard.put(said))
    for number in range(1, 4):
        reader.take(number, Estimate("some text", tokens()))
    found = []
    while len(found) < 3:
        said_ = heard.get(timeout=WAIT_S)
        if isinstance(said_, Estimated):
            found.append(said_.gain)
    assert found == [None] * 3
    assert target.n_estimates == 1


def test_no_process_is_left():
    pids = []

    async def go():
        async with reading() as found:
            pids.append(found.pid)

    run(go)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
