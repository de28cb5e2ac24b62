"""The engine where there is too much, too little memory, or a worker that says nothing."""

import asyncio
import os
import random
import signal
import statistics
import time

import pytest
from engine_process import WAIT_S, children, condense, running, spec, text_of, until

from neural_condense_core.errors import (
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    UnavailableError,
)
from neural_condense_core.serving.cache import AnswerCache
from neural_condense_core.serving.metrics import Metrics
from neural_condense_core.serving.timings import Timings

pytestmark = pytest.mark.usefixtures("engine_surroundings")

REJECT_S = 0.01
"""Within which a request that cannot be served is told so."""


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(f"condense_{name}", labels)


def test_under_twice_the_load_nearly_as_much_is_answered_in_time(batches):
    """Open loop: who comes does not wait for who came."""
    taken_s, timeout_s, duration_s = 0.08, 1.0, 4.0
    rng = random.Random(1)
    answered, refused, late = [], [], []

    async def ask(engine, number):
        start_s = time.perf_counter()
        try:
            await condense(engine, f"SLEEP{taken_s} {number:04}", timeout_s=timeout_s)
            answered.append(time.perf_counter() - start_s)
        except OverloadedError as error:
            refused.append((time.perf_counter() - start_s, error.retry_after_s))
        except DeadlineError:
            late.append(number)

    async def go():
        metrics = Metrics()
        # Each context is a batch of its own: what a worker can do is known.
        async with running(max_batch_tokens=1, timeout_s=timeout_s, metrics=metrics) as engine:
            for number in range(4):
                await ask(engine, number)
            answered.clear()
            begun_s = time.perf_counter()
            asked = []
            while time.perf_counter() - begun_s < duration_s:
                asked.append(asyncio.create_task(ask(engine, len(asked))))
                await asyncio.sleep(rng.expovariate(2.0 / taken_s))
            await asyncio.gather(*asked)
            taken = time.perf_counter() - begun_s
            return metrics, len(answered) * taken_s / taken

    metrics, share = asyncio.run(go())
    assert share > 0.75, "most of the worker's time was spent on answers in time"
    assert len(refused) > 10
    assert len(late) <= 0.1 * len(answered)  # on a busy machine; without admission it is most
    assert max(answered) <= timeout_s
    assert statistics.median(taken_s for taken_s, _ in refused) < REJECT_S
    assert all(retry_after_s > 0 for _, retry_after_s in refused)
    assert value(metrics, "dropped_total", reason="abandoned") == 0
    computed = [text for entry in batches() for text in entry["batch"]]
    assert len(computed) <= len(answered) + len(late) + 4


def test_a_request_with_little_time_goes_first_and_makes_no_other_late(batches):
    async def go():
        async with running(max_batch_tokens=1) as engine:
            for number in range(3):
                await condense(engine, f"SLEEP0.3 {number:03}")
            block = asyncio.create_task(condense(engine, "SLEEP0.3 block"))
            await until(lambda: len(batches()) == 4)
            tight = asyncio.create_task(condense(engine, "SLEEP0.3 tight", timeout_s=0.75))
            await asyncio.sleep(0)
            with pytest.raises(OverloadedError) as caught:
                await condense(engine, "SLEEP0.3 hurry", timeout_s=0.74)
            assert caught.value.detail["reason"] == "predicted_wait"
            patient = asyncio.create_task(condense(engine, "SLEEP0.3 later"))
            assert text_of(await tight) == "SLEEP0.3 tight"
            await asyncio.gather(block, patient)

    asyncio.run(go())


def test_what_is_expired_or_abandoned_is_counted_and_not_computed(batches):
    async def go():
        metrics = Metrics()
        async with running(metrics=metrics) as engine:
            block = asyncio.create_task(condense(engine, "SLEEP0.6"))
            await until(batches)
            given_up = asyncio.create_task(condense(engine, "given up"))
            late = asyncio.create_task(condense(engine, "late", timeout_s=0.2))
            await asyncio.sleep(0.05)
            given_up.cancel()
            with pytest.raises(DeadlineError, match=r"0\.2 s"):
                await late
            await block
            await condense(engine, "wanted")
        assert value(metrics, "dropped_total", reason="expired") == 1
        assert value(metrics, "dropped_total", reason="abandoned") == 1
        assert value(metrics, "batch_size_count") == 2
        assert [entry["batch"] for entry in batches()] == [["SLEEP0.6"], ["wanted"]]

    asyncio.run(go())


def test_timings_say_where_the_time_went(batches):
    async def go():
        async with running() as engine:
            block = asyncio.create_task(condense(engine, "SLEEP0.3"))
            await until(batches)
            timings = Timings()
            await condense(engine, "SLEEP0.2 me", timings=timings)
            await block
            assert 0.1 < timings.queue_s < 0.5
            assert 0.2 <= timings.inference_s < timings.total_s - timings.queue_s
            assert (timings.n_tokens, timings.cache) == (11, None)

    asyncio.run(go())


def test_memory_that_runs_out_makes_smaller_batches_and_fails_nobody(batches):
    async def go():
        metrics = Metrics()
        cramped = spec("backend_condensers:Cramped")
        async with running([cramped], metrics=metrics) as engine:
            (pid,) = children()
            block = asyncio.create_task(condense(engine, "SLEEP0.3"))
            await until(batches)
            texts = [f"number {i} of eight" for i in range(8)]  # 17 tokens each
            answers = await asyncio.gather(*(condense(engine, text) for text in texts), block)
            assert [text_of(answer) for answer in answers[:-1]] == texts
            assert value(metrics, "out_of_memory_total") >= 1
            budget = value(metrics, "batch_token_budget")
            assert budget <= 8 * 17 / 2
            with pytest.raises(NeuralCondenseError) as caught:
                await condense(engine, "x" * 41)
            assert caught.value.status == 500
            assert text_of(await condense(engine, "x" * 40)) == "x" * 40
            assert children() == [pid], "no worker is lost over it"

    asyncio.run(go())


def test_a_silent_worker_does_not_count_as_ready_before_it_is_killed():
    async def go():
        metrics = Metrics()
        async with running(
            [spec(), spec()], timeout_s=0.3, hang_timeout_s=3.0, metrics=metrics
        ) as engine:
            with pytest.raises(DeadlineError):
                await condense(engine, "HANG")
            assert engine.readiness().workers == 2
            await until(lambda: engine.readiness().workers == 1)
            found = engine.readiness()
            assert (found.state, found.total) == ("ready", 2)
            assert "silent" in found.reason
            assert value(metrics, "worker_restarts_total") == 0
            assert text_of(await condense(engine, "other one", timeout_s=5.0)) == "other one"
            await until(lambda: value(metrics, "worker_restarts_total") == 1)
            await until(lambda: engine.readiness().workers == 2)

    asyncio.run(go())


def test_where_all_workers_are_silent_nobody_is_told_to_wait():
    async def go():
        async with running(timeout_s=0.3, hang_timeout_s=4.0) as engine:
            with pytest.raises(DeadlineError):
                await condense(engine, "HANG")
            await until(lambda: engine.readiness().workers == 0)
            assert engine.readiness().state == "loading"
            with pytest.raises(UnavailableError):
                await condense(engine, "anybody?")
            await until(lambda: engine.readiness().state == "ready")
            assert text_of(await condense(engine, "back", timeout_s=5.0)) == "back"

    asyncio.run(go())


def test_a_worker_killed_under_load_costs_no_request(batches):
    async def go():
        async with running([spec(), spec()], max_batch_tokens=60) as engine:
            asked = [
                asyncio.create_task(condense(engine, f"SLEEP0.03 of all {i:03}")) for i in range(60)
            ]
            await until(lambda: len(batches()) > 3)
            os.kill(batches()[-1]["pid"], signal.SIGKILL)
            answers = await asyncio.gather(*asked)
            assert [text_of(answer) for answer in answers] == [
                f"SLEEP0.03 of all {i:03}" for i in range(60)
            ]
            start_s = time.monotonic()
            await until(lambda: engine.readiness().workers == 2)
            assert time.monotonic() - start_s < WAIT_S

    asyncio.run(go())


def test_a_repeated_context_is_answered_without_a_worker(batches):
    async def go():
        metrics = Metrics()
        async with running(cache=AnswerCache(1 << 20), metrics=metrics) as engine:
            first, again, other = Timings(), Timings(), Timings()
            made = await condense(engine, "once and again", timings=first)
            found = await condense(engine, "once and again", timings=again)
            await condense(engine, "once and again", ratio=2, timings=other)
            assert text_of(found) == text_of(made) == "once and again"
            assert [first.cache, again.cache, other.cache] == ["miss", "hit", "miss"]
            assert len(batches()) == 2
            assert (again.n_tokens, again.inference_s) == (14, 0.0)
            with pytest.raises(NeuralCondenseError):
                await condense(engine, "RAISE")
            with pytest.raises(NeuralCondenseError):
                await condense(engine, "RAISE")
            assert len(batches()) == 4, "a failure is not kept"

    asyncio.run(go())
