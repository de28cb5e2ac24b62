"""The loop is open: what a backend does delays no request, and hides nothing."""

import asyncio
import time

from neural_condense_core.client.exchange import Question
from neural_condense_core.errors import BackendError
from neural_condense_core.loadtest.connections import Reply
from neural_condense_core.loadtest.generator import Generator
from neural_condense_core.loadtest.replies import Checker
from neural_condense_core.wire.arrays import Limits

GOOD = b"[[1.0, 2.0]]"


class FakeConnections:
    def __init__(self, answer):
        self.answer, self.sent_s = answer, []

    async def post(self, body):
        loop = asyncio.get_running_loop()
        self.sent_s.append(loop.time())
        n = len(self.sent_s)
        headers, body = await self.answer(n)
        return Reply(200, {"content-type": "application/json", **headers}, body, loop.time())


def question():
    limits = Limits(10_000, 4, 2)
    return Question("some text", target_model="m", limits=limits, estimate_tokens=len)


def run(answer, due_s, *, timeout_s=0.3, max_in_flight=100, draw=question):
    connections = FakeConnections(answer)
    told = []

    async def go():
        with Checker() as checker:
            generator = Generator(connections, checker, draw, timeout_s, max_in_flight)
            return await generator.run(due_s, told.append)

    found = asyncio.run(go())
    assert len(told) == len(found) == len(due_s)
    return found, connections.sent_s


async def at_once(n):
    return {}, GOOD


async def never(n):
    await asyncio.sleep(60)


def test_requests_leave_when_they_are_due():
    due_s = [0.0, 0.05, 0.06, 0.2]
    found, sent_s = run(at_once, due_s)
    assert [each.code for each in found] == ["ok"] * 4
    assert [each.due_s for each in found] == due_s
    assert all(-0.01 <= each.lag_s < 0.5 for each in found)
    assert sent_s[-1] - sent_s[0] > 0.1


def test_a_backend_that_never_answers_slows_nothing_down():
    began = time.monotonic()
    found, sent_s = run(never, [i * 0.01 for i in range(30)])
    assert [each.code for each in found] == ["timeout"] * 30
    assert all(each.latency_s is None for each in found)
    assert sent_s[-1] - sent_s[0] < 1.0
    assert time.monotonic() - began < 5


def test_more_in_flight_than_allowed_is_an_error_and_no_pause():
    found, sent_s = run(never, [0.0] * 10, max_in_flight=4)
    assert sorted(each.code for each in found) == ["in_flight_cap"] * 6 + ["timeout"] * 4
    assert len(sent_s) == 4


def test_latency_counts_from_when_a_request_was_due():
    calls = []

    def draw():
        calls.append(1)
        if len(calls) == 1:
            time.sleep(0.2)  # a generator that is held up
        return question()

    found, _ = run(at_once, [0.0, 0.01, 0.02], timeout_s=5, draw=draw)
    assert found[1].lag_s > 0.15
    assert found[1].latency_s >= found[1].lag_s
    assert found[2].latency_s > 0.15


def test_every_end_has_a_code():
    async def answer(n):
        match n:
            case 1:
                raise BackendError("closed", {"reason": "connection"})
            case 2:
                raise BackendError("large", {"reason": "too_large"})
            case 3:
                return {}, b"[[1.0, null]]"
            case _:
                return {
                    "x-queue-time": "12.5",
                    "x-inference-time": "x",
                    "x-condense-cache": "hit",
                }, GOOD

    found, _ = run(answer, [0.0, 0.02, 0.04, 0.06])
    codes = [each.code for each in found]
    assert codes == ["connection", "malformed_too_large", "malformed_number", "ok"]
    last = found[-1]
    assert (last.queue_s, last.inference_s, last.is_cached) == (0.0125, None, True)
    assert (last.n_chars, last.n_condensed) == (9, 1)
