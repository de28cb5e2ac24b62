import asyncio
import multiprocessing
import selectors
from concurrent.futures import Future

import pytest

from neural_condense_core.serving.jobs import Loaded, Progress, WorkerSpec
from neural_condense_core.serving.replica import LOAD_SILENCE_S, Replica, WorkerLostError

SPEC = WorkerSpec("echo", None, None, None, "auto", "cpu", 1, 100, (16,))
LOADED = Loaded("echo", "toy", 64, None, 4.0, None, (), {})


class HurriedSelector(selectors.DefaultSelector):
    """Does not wait: what it would have waited is put on the loop's clock."""

    skipped_s = 0.0

    def select(self, timeout=None):
        found = super().select(0)
        if not found and timeout:
            self.skipped_s += timeout
        return found


class HurriedLoop(asyncio.SelectorEventLoop):
    """Its clock goes from one timer to the next, so that minutes take no time."""

    def __init__(self):
        super().__init__(HurriedSelector())

    def time(self):
        return self._selector.skipped_s


class Loading(Replica):
    """Loads in no process; the test reports in its stead."""

    def _spawn(self):
        self._reports, self.worker_end = multiprocessing.Pipe(duplex=False)
        self.alive = True
        asyncio.get_running_loop().add_reader(self._reports.fileno(), self._read_reports)
        self.future = Future()
        return self.future


def run(main):
    with asyncio.Runner(loop_factory=HurriedLoop) as runner:
        return runner.run(main)


async def load(reports, every_s):
    """Load with so many reports, and return what came of it and how long it took, seconds."""
    replica = Loading(0, SPEC, lambda: None)
    clock = asyncio.get_running_loop().time
    loading = asyncio.create_task(replica.load())
    for number in range(reports):
        await asyncio.sleep(every_s)
        replica.worker_end.send(Progress(0, "load", number / reports))
    if reports:
        await asyncio.sleep(every_s)
        replica.future.set_result(LOADED)
    try:
        (found,) = await asyncio.gather(loading, return_exceptions=True)
        return found, clock()
    finally:
        replica._detach()
        replica.worker_end.close()


def test_a_worker_that_reports_may_take_its_time():
    found, taken_s = run(load(reports=5, every_s=0.9 * LOAD_SILENCE_S))
    assert found is LOADED
    assert taken_s == pytest.approx(5.4 * LOAD_SILENCE_S)


def test_a_worker_that_is_silent_while_it_loads_is_lost():
    found, taken_s = run(load(reports=0, every_s=0))
    assert isinstance(found, WorkerLostError)
    assert found.reason == "silent while loading for 600 s, at 'spawn'"
    assert taken_s == pytest.approx(LOAD_SILENCE_S)


def test_a_worker_that_falls_silent_half_way_is_lost():
    async def go():
        replica = Loading(0, SPEC, lambda: None)
        loading = asyncio.create_task(replica.load())
        await asyncio.sleep(500)
        replica.worker_end.send(Progress(0, "load", 0.3))
        (found,) = await asyncio.gather(loading, return_exceptions=True)
        replica._detach()
        replica.worker_end.close()
        return found, asyncio.get_running_loop().time()

    found, taken_s = run(go())
    assert found.reason == "silent while loading for 600 s, at 'load'"
    assert taken_s == pytest.approx(500 + LOAD_SILENCE_S)
