import asyncio
import logging
import pickle
import select
import socket
import threading

import pytest
import uvloop

from neural_condense_core.errors import NeuralCondenseError
from neural_condense_core.serving.calls import BUFFER_BYTES, CallSocket, answer_calls
from neural_condense_core.serving.jobs import BatchTooLargeError

PRIVATE = "the vault opens at noon"


def respond(argument):
    match argument:
        case "too large":
            raise BatchTooLargeError
        case "boom":
            raise ValueError(PRIVATE)
        case "unpicklable":
            return threading.Lock()
    return argument


def with_worker(main):
    """Run ``main(calls)`` beside a thread that answers; returns what it returns."""

    async def go():
        calls = CallSocket()
        theirs = calls.theirs.dup()
        worker = threading.Thread(
            target=answer_calls, args=(theirs, respond, (BatchTooLargeError,))
        )
        worker.start()
        try:
            await calls.open()
            return await asyncio.wait_for(main(calls), 10)
        finally:
            calls.close()
            await asyncio.to_thread(worker.join, 10)
            assert not worker.is_alive(), "it answers although the front has hung up"

    return asyncio.run(go())


@pytest.mark.parametrize("argument", ["", ["a", 1], b"x" * (3 * BUFFER_BYTES)])
def test_what_is_asked_comes_back(argument):
    async def main(calls):
        return [await calls.call(argument) for _ in range(3)]

    assert with_worker(main) == [argument] * 3


def test_an_exception_that_is_known_arrives_as_it_is_and_the_next_call_works():
    async def main(calls):
        with pytest.raises(BatchTooLargeError):
            await calls.call("too large")
        return await calls.call("next")

    assert with_worker(main) == "next"


@pytest.mark.parametrize("trouble", ["boom", "unpicklable"])
def test_any_other_exception_is_logged_by_type_and_quotes_nothing(trouble, caplog):
    async def main(calls):
        with pytest.raises(NeuralCondenseError) as caught:
            await calls.call(trouble)
        assert PRIVATE not in str(caught.value)
        return await calls.call("next")

    with caplog.at_level(logging.ERROR):
        assert with_worker(main) == "next"
    assert ("ValueError" if trouble == "boom" else "TypeError") in caplog.text
    assert PRIVATE not in caplog.text


@pytest.mark.parametrize("loop_factory", [None, uvloop.new_event_loop])
def test_a_worker_that_went_while_nobody_asked_is_missed(loop_factory):
    async def go():
        calls = CallSocket()
        await calls.open()
        calls.theirs.close()
        for _ in range(3):
            with pytest.raises(EOFError):
                await asyncio.wait_for(calls.call("anything"), 10)
            await asyncio.sleep(0.01)
        calls.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(go())


def test_a_call_that_is_given_up_never_answers_the_next_one():
    async def main(calls):
        asking = asyncio.create_task(calls.call("first"))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled()
        with pytest.raises(EOFError):
            await calls.call("second")

    with_worker(main)


def test_a_front_that_hangs_up_before_it_has_read_the_answer_ends_the_worker_in_peace():
    ours, theirs = socket.socketpair()
    worker = threading.Thread(target=answer_calls, args=(theirs, respond, ()))
    worker.start()
    request = pickle.dumps("first")
    ours.sendall(len(request).to_bytes(8, "little") + request)
    assert select.select([ours], [], [], 60)[0], "it has answered"
    ours.close()
    worker.join(60)
    # What the thread would raise fails the test: pytest's warnings are errors.
    assert not worker.is_alive()


@pytest.mark.parametrize("half_way", [False, True])
def test_a_worker_that_is_gone_ends_the_call(half_way):
    async def go():
        calls = CallSocket()
        theirs = calls.theirs.dup()
        await calls.open()
        calls.theirs.close()
        asking = asyncio.create_task(calls.call("anything"))
        await asyncio.sleep(0.01)
        if half_way:
            theirs.send((100).to_bytes(8, "little") + b"part")
        theirs.close()
        with pytest.raises(EOFError):
            await asyncio.wait_for(asking, 10)
        calls.close()

    asyncio.run(go())


def test_nobody_is_asked_before_it_is_opened_or_after_it_is_closed():
    async def go():
        calls = CallSocket()
        with pytest.raises(EOFError):
            await calls.call("anything")
        calls.close()
        calls.close()
        with pytest.raises(EOFError):
            await calls.call("anything")

    asyncio.run(go())
