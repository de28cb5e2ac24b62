"""The engine with real worker processes."""

import asyncio
import os
import signal
import time

import orjson
import pytest
from engine_process import WAIT_S, alive, children, condense, running, spec, text_of, until

from neural_condense_core.errors import (
    ConfigError,
    ContextTooLongError,
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    UnavailableError,
    UnknownModelError,
)
from neural_condense_core.serving import crew as crew_module
from neural_condense_core.serving import replica as replica_module
from neural_condense_core.serving.crew import backoff_s
from neural_condense_core.serving.engine import Engine
from neural_condense_core.wire.codec import JSON

pytestmark = pytest.mark.usefixtures("engine_surroundings")


def test_answers_reach_their_askers_in_every_order():
    async def go():
        async with running([spec(), spec()]) as engine:
            texts = [f"context number {i} " + "x" * (i * 7 % 50) for i in range(40)]
            answers = await asyncio.gather(*(condense(engine, text) for text in texts))
            assert [text_of(answer) for answer in answers] == texts
            (answer,) = await asyncio.gather(condense(engine, "abcdefgh", reply=JSON))
            assert orjson.loads(answer.body)["n_condensed_tokens"] == 2

    asyncio.run(go())


def test_batches_form_while_the_worker_works(batches):
    async def go():
        async with running(max_batch_tokens=40) as engine:
            first = asyncio.create_task(condense(engine, "SLEEP0.3"))
            await until(batches)
            rest = [condense(engine, f"abcdefgh{i}") for i in range(5)]
            other_ratio = condense(engine, "abcdefgh5", ratio=2)
            await asyncio.gather(first, *rest, other_ratio)
        assert [len(entry["batch"]) for entry in batches()] == [1, 4, 1, 1]

    asyncio.run(go())


def test_a_condenser_that_can_be_hurried_is_told_how_long_it_has(batches):
    async def go():
        async with running([spec("backend_condensers:Hurried")]) as engine:
            assert text_of(await condense(engine, "no hurry", timeout_s=25.0)) == "no hurry"
            (entry,) = batches()
            assert 20.0 < entry["remaining_s"] <= 25.0

    asyncio.run(go())


def test_the_front_tokenizes_where_it_can():
    async def go():
        async with running([spec("backend_condensers:Words")]) as engine:
            answer = await condense(engine, "a b harbour", ratio=1)
            assert (answer.n_context_tokens, answer.n_condensed_tokens) == (3, 3)
            assert text_of(answer) == "\x01\x02\x03"
            with pytest.raises(ContextTooLongError) as caught:
                await condense(engine, "a " * 201)
            assert caught.value.detail["n_context_tokens"] == 201
        async with running([spec("backend_condensers:TwoFaced")]) as engine:
            assert text_of(await condense(engine, "a b harbour")) == "a b harbour"

    asyncio.run(go())


def test_a_poisoned_context_does_not_fail_its_neighbours(batches):
    async def go():
        async with running() as engine:
            block = asyncio.create_task(condense(engine, "SLEEP0.3"))
            await until(batches)
            asked = [condense(engine, text) for text in ("good one", "RAISE it", "fine one")]
            good, bad, fine = await asyncio.gather(*asked, return_exceptions=True)
            assert (text_of(good), text_of(fine)) == ("good one", "fine one")
            assert isinstance(bad, NeuralCondenseError)
            assert bad.status == 500
            assert "RAISE" not in str(bad.body())
            await block
        sizes = [len(entry["batch"]) for entry in batches()]
        assert sizes == [1, 3, 1, 1, 1]
        assert len({entry["pid"] for entry in batches()}) == 1

    asyncio.run(go())


def test_a_context_that_kills_its_worker_takes_no_neighbour_along(batches):
    async def go():
        async with running() as engine:
            block = asyncio.create_task(condense(engine, "SLEEP0.3"))
            await until(batches)
            asked = [condense(engine, text) for text in ("good one", "CRASH it", "fine one")]
            good, bad, fine = await asyncio.gather(*asked, return_exceptions=True)
            assert (text_of(good), text_of(fine)) == ("good one", "fine one")
            assert isinstance(bad, UnavailableError)
            await block
            await until(lambda: engine.readiness().state == "ready")
        assert len({entry["pid"] for entry in batches()}) == 3

    asyncio.run(go())


def test_an_idle_worker_that_is_killed_is_missed_and_replaced():
    async def go():
        async with running() as engine:
            (pid,) = children()
            os.kill(pid, signal.SIGKILL)
            await until(lambda: engine.readiness().state != "ready")
            with pytest.raises(UnavailableError):
                await condense(engine, "now")
            await until(lambda: engine.readiness().state == "ready")
            assert children() != [pid]
            assert text_of(await condense(engine, "again")) == "again"

    asyncio.run(go())


def test_a_request_survives_the_death_of_its_worker(batches):
    async def go():
        async with running() as engine:
            asked = asyncio.create_task(condense(engine, "SLEEP0.4 survivor"))
            await until(batches)
            os.kill(batches()[0]["pid"], signal.SIGKILL)
            assert text_of(await asked) == "SLEEP0.4 survivor"
            assert len(batches()) == 2

    asyncio.run(go())


def test_a_late_answer_is_a_deadline_and_a_hung_worker_is_replaced(batches):
    async def go():
        async with running(timeout_s=0.4, hang_timeout_s=0.8) as engine:
            (pid,) = children()
            start_s = time.monotonic()
            with pytest.raises(DeadlineError):
                await condense(engine, "HANG")
            assert time.monotonic() - start_s < 5
            await until(lambda: engine.readiness().state != "ready")
            await until(lambda: engine.readiness().state == "ready")
            assert not alive(pid)
            assert text_of(await condense(engine, "alive", timeout_s=10)) == "alive"
        assert [entry["batch"] for entry in batches()] == [["HANG"], ["alive"]]

    asyncio.run(go())


def test_a_slow_batch_costs_its_answer_and_not_its_worker(batches):
    async def go():
        async with running(timeout_s=0.3) as engine:
            before = children()
            with pytest.raises(DeadlineError):
                await condense(engine, "SLEEP0.9 slow")
            assert text_of(await condense(engine, "next", timeout_s=WAIT_S)) == "next"
            assert children() == before
        assert len({entry["pid"] for entry in batches()}) == 1

    asyncio.run(go())


@pytest.mark.parametrize(("timeout_s", "hang_timeout_s"), [(4.0, 60.0), (60.0, 120.0)])
def test_when_a_worker_hangs(timeout_s, hang_timeout_s):
    engine = Engine([spec()], max_queued_tokens=9, max_batch_tokens=9, timeout_s=timeout_s)
    assert engine.hang_timeout_s == hang_timeout_s


def test_a_worker_that_is_silent_while_it_loads_is_killed(monkeypatch):
    monkeypatch.setenv("SLOW_LOAD_S", "600")
    monkeypatch.setattr(replica_module, "LOAD_SILENCE_S", 1.0)

    async def go():
        async with running([spec("backend_condensers:Slow")], wait=False) as engine:
            await until(children)
            (pid,) = children()
            await until(lambda: engine.readiness().reason)
            assert engine.readiness().reason.startswith("silent while loading for 1 s, at ")
            assert not alive(pid)

    asyncio.run(go())


def test_what_is_given_up_or_late_is_never_computed(batches):
    async def go():
        async with running() as engine:
            block = asyncio.create_task(condense(engine, "SLEEP0.6"))
            await until(batches)
            given_up = asyncio.create_task(condense(engine, "given up"))
            late = asyncio.create_task(condense(engine, "late", timeout_s=0.1))
            await asyncio.sleep(0.05)
            given_up.cancel()
            with pytest.raises(DeadlineError):
                await late
            await block
            await condense(engine, "wanted")
        assert [entry["batch"] for entry in batches()] == [["SLEEP0.6"], ["wanted"]]

    asyncio.run(go())


def test_the_queue_is_bounded_in_tokens(batches):
    async def go():
        async with running(max_queued_tokens=200) as engine:
            block = asyncio.create_task(condense(engine, "SLEEP0.5"))
            await until(batches)
            waiting = [asyncio.create_task(condense(engine, "w" * 100)) for _ in range(2)]
            await asyncio.sleep(0.05)
            start_s = time.monotonic()
            with pytest.raises(OverloadedError):
                await condense(engine, "one more")
            assert time.monotonic() - start_s < 0.2
            await asyncio.gather(block, *waiting)

    asyncio.run(go())


def test_another_target_model_is_refused_by_name():
    async def go():
        async with running([spec(target_model="toy")]) as engine:
            await condense(engine, "a", target_model="toy")
            with pytest.raises(UnknownModelError, match="'toy'"):
                await condense(engine, "a", target_model="other")

    asyncio.run(go())


def test_loading_is_reported_and_refuses_requests(monkeypatch):
    monkeypatch.setenv("SLOW_LOAD_S", "0.5")

    async def go():
        async with running([spec("backend_condensers:Slow")], wait=False) as engine:
            assert engine.readiness().state == "loading"
            with pytest.raises(UnavailableError):
                await condense(engine, "early")
            await until(lambda: engine.readiness().stage == "load")
            before = engine.readiness()
            assert (before.state, before.workers) == ("loading", 0)
            assert 0 < before.done < 1
            await until(lambda: engine.readiness().state == "ready")
            assert engine.readiness().workers == 1

    asyncio.run(go())


def test_a_worker_that_cannot_load_is_given_up_with_the_reason():
    async def go():
        misconfigured = []
        async with running(
            [spec("backend_condensers:Unloadable")],
            wait=False,
            on_misconfigured=misconfigured.append,
        ) as engine:
            await until(lambda: engine.readiness().state == "failed")
            found = engine.readiness()
            assert (found.workers, found.reason) == (0, "the target model is out of reach today")
            with pytest.raises(UnavailableError):
                await condense(engine, "a")
            assert not misconfigured

    asyncio.run(go())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"condenser": "ecko"}, "Did you mean 'echo'"),
        ({"condenser": "no_such_module:Thing"}, "no_such_module"),
        ({"condenser": "backend_condensers:Asking"}, "query"),
        ({"condenser": "backend_condensers:Offered", "ratio": 3.0}, "2, 5, 8"),
        ({"condenser": "echo", "checkpoint": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_a_wrong_configuration_is_tried_once(changes, said):
    async def go():
        misconfigured = []
        async with running(
            [spec(**changes)], wait=False, on_misconfigured=misconfigured.append
        ) as engine:
            await until(lambda: engine.readiness().state == "failed")
        (error,) = misconfigured
        assert isinstance(error, ConfigError)
        assert said in error.message

    asyncio.run(go())


def test_a_condenser_that_lies_fails_its_warm_up():
    async def go():
        async with running([spec("backend_condensers:Liar")], wait=False) as engine:
            await until(lambda: engine.readiness().reason is not None)
            assert "warm-up failed" in engine.readiness().reason

    asyncio.run(go())


def test_drain_answers_what_it_took_and_takes_no_more(batches):
    async def go():
        async with running() as engine:
            asked = [asyncio.create_task(condense(engine, f"SLEEP0.3 {i}")) for i in range(2)]
            await until(batches)
            draining = asyncio.create_task(engine.drain(WAIT_S))
            await asyncio.sleep(0)
            assert engine.readiness().state == "draining"
            with pytest.raises(UnavailableError):
                await condense(engine, "too late")
            assert await draining
            assert [text_of(await answer) for answer in asked] == ["SLEEP0.3 0", "SLEEP0.3 1"]

    asyncio.run(go())


def test_drain_gives_up_after_its_time():
    async def go():
        async with running() as engine:
            asked = asyncio.create_task(condense(engine, "HANG"))
            await asyncio.sleep(0.1)
            assert not await engine.drain(0.2)
            asked.cancel()

    asyncio.run(go())


def test_closing_refuses_those_who_wait_and_ends_a_busy_worker(batches):
    async def go():
        async with running() as engine:
            busy = asyncio.create_task(condense(engine, "HANG"))
            await until(batches)
            waiting = asyncio.create_task(condense(engine, "waits"))
            await asyncio.sleep(0.05)
            await engine.close()
            for asked in (busy, waiting):
                with pytest.raises(UnavailableError):
                    await asked

    asyncio.run(go())


def test_closing_ends_a_worker_that_still_loads(monkeypatch):
    monkeypatch.setenv("SLOW_LOAD_S", "60")

    async def go():
        start_s = time.monotonic()
        async with running([spec("backend_condensers:Slow")], wait=False):
            await until(children)
        assert time.monotonic() - start_s < 30

    asyncio.run(go())


def test_threads_of_a_worker_are_set_before_anything_loads(batches):
    async def go():
        async with running([spec(threads=3)]) as engine:
            await condense(engine, "a")
        assert batches()[0]["threads"] == "3"

    asyncio.run(go())


def test_the_pause_before_a_replacement_doubles_to_a_bound(monkeypatch):
    monkeypatch.setattr(crew_module, "BACKOFF_S", 0.5)
    assert [backoff_s(n) for n in (0, 1, 2, 3, 9)] == [0.0, 0.5, 1.0, 2.0, 10.0]
