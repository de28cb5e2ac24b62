"""The scoring service with a real model in a process of its own, over HTTP on loopback."""

import asyncio
import contextlib
import os
import signal
import sys

import numpy as np
import pytest

from neural_condense_core.client.scoring import ScoringClient
from neural_condense_core.errors import OverloadedError, RequestError, UnavailableError
from neural_condense_core.llm.hf import load_target
from neural_condense_core.scoring import host as host_module
from neural_condense_core.scoring.app import create_app
from neural_condense_core.scoring.challenges import make_challenges
from neural_condense_core.scoring.host import ModelHost
from neural_condense_core.scoring.server import worker_spec
from neural_condense_core.scoring.settings import ScoringSettings
from neural_condense_core.scoring.texts import Generated
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.listening import bind, make_server
from neural_condense_core.wire.scoring import ReplyRef, ScoreRequest, encode_score_request

WAIT_S = 240.0
TOKEN = "-".join(["a", "token", "of", "some", "length"])


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    # A spawned process imports its parent's main module first: pytest, which takes a while.
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__")
    monkeypatch.setattr(host_module, "RESTART_WAIT_S", 0.05)


def a_round(model, miners=("good", "broken", "noise"), seed=5):
    """Miners of one round: the first half of the text, NaN for one context, and noise."""
    target = load_target(model, "cpu", "float32")
    challenges = make_challenges(seed, 3, 300, Generated())
    rng = np.random.default_rng(0)
    replies, tensors = [], {}
    for miner in miners:
        for challenge in challenges:
            reply = ReplyRef(id=f"{miner}/{challenge.id}", miner=miner, challenge=challenge.id)
            embeds = target.embed(target.tokenize(challenge.context)[:120])
            if miner == "noise":
                embeds = (0.5 * rng.standard_normal((20, 64))).astype(np.float32)
            replies.append(reply)
            tensors[reply.id] = CondensedTokens(embeds, model, 300)
    request = ScoreRequest(
        target_model=model, seed=seed, challenges=tuple(challenges), replies=tuple(replies)
    )
    return request, tensors


@contextlib.asynccontextmanager
async def serving(model, **flags):
    settings = ScoringSettings(
        target_model=model, port=0, dtype="float32", threads=1, token=TOKEN,
        baselines="head-tail", max_condensed_tokens=256, **flags,
    )  # fmt: skip
    host = ModelHost(
        worker_spec(settings), max_waiting=settings.max_waiting, timeout_s=settings.timeout_s
    )
    with bind(settings.host, 0) as listener:
        server = make_server(create_app(host, settings))
        running = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            async with ScoringClient(
                f"http://127.0.0.1:{listener.getsockname()[1]}", TOKEN, WAIT_S
            ) as client:
                yield client, host
        finally:
            await host.close(5.0)
            server.should_exit = True
            await running


async def until(condition):
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def test_rounds_over_http(tiny_llama):
    request, tensors = a_round(tiny_llama)
    broken = dict(tensors)
    name = f"broken/{request.challenges[0].id}"
    broken[name] = CondensedTokens(tensors[name].embeds[:, :32].copy(), tiny_llama, 300)

    async def go():
        async with serving(tiny_llama) as (client, host):
            first = await client.score(request, broken)  # waits until it is ready
            alone = ScoreRequest(
                target_model=tiny_llama,
                seed=request.seed,
                challenges=request.challenges,
                replies=tuple(reply for reply in request.replies if reply.miner == "good"),
            )
            second = await client.score(
                alone, {reply.id: tensors[reply.id] for reply in alone.replies}
            )
            with pytest.raises(RequestError) as refused:
                await ScoringClient(client.url, "x" * 20).score(request, broken)
            info = await client.info()
            return first, second, refused.value, info, host.loaded

    first, second, refused, info, loaded = asyncio.run(go())
    assert loaded.hidden_size == info.hidden_size == 64
    # Bit by bit the same, with others beside and alone.
    assert first.miners["good"] == second.miners["good"]
    codes = [reply.code for reply in first.miners["broken"].replies.values()]
    assert sorted(codes) == ["ok", "ok", "wrong_width"]
    good = first.miners["good"]
    assert good.best_baseline.name == "head-tail"
    assert good.best_baseline.content_recovery is not None
    assert good.n_items == sum(task.n for task in good.tasks.values())
    assert refused.detail["status"] == 401


def test_a_killed_process_comes_back_and_scores_the_same(tiny_llama):
    request, tensors = a_round(tiny_llama, ("good",))

    async def go():
        async with serving(tiny_llama) as (client, host):
            before = await client.score(request, tensors)
            os.kill(host._process.pid, signal.SIGKILL)
            await until(lambda: host.state == "loading")
            assert not await client.ready()
            # The client waits out the restart.
            after = await client.score(request, tensors)
            return before.miners, after.miners

    before, after = asyncio.run(go())
    assert before == after


def test_rounds_wait_their_turn_and_only_so_many(tiny_llama):
    request, tensors = a_round(tiny_llama, ("good",))
    body = encode_score_request(request, tensors)

    async def go():
        async with serving(tiny_llama, max_waiting=1) as (client, host):
            await client.score(request, tensors)
            tasks = [asyncio.create_task(host.score(body)) for _ in range(3)]
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            # One that hangs up before its turn is never scored.
            running = asyncio.create_task(host.score(body))
            waiting = asyncio.create_task(host.score(body))
            await asyncio.sleep(0)
            waiting.cancel()
            await running
            await until(lambda: not host._rounds)
            return outcomes

    outcomes = asyncio.run(go())
    assert [isinstance(outcome, bytes) for outcome in outcomes] == [True, True, False]
    assert isinstance(outcomes[2], OverloadedError)


def test_a_model_that_is_not_there_fails_for_good(tmp_path):
    async def go():
        async with serving(str(tmp_path / "nothing")) as (client, host):
            async with asyncio.timeout(WAIT_S):
                await host.failed.wait()
            assert not await client.ready()
            with pytest.raises(UnavailableError):
                await host.score(b"")
            return host.failure

    assert "cannot load target model" in asyncio.run(go()).message
