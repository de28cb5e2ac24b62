"""Large answers on their way from a worker's process to the front."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest
from engine_process import WAIT_S, alive, children, spec, until
from wide_condensers import Wide

from neural_condense_core.serving.jobs import Job
from neural_condense_core.serving.replica import Replica, WorkerLostError
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import JSON, SAFETENSORS, decode

LIMITS = Limits(max_bytes=100_000_000, max_tokens=5000)


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    # A spawned process imports its parent's main module first: pytest, which takes a while.
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__")


def blocks(pid="self"):
    """Return how many memory files a process holds."""
    links = (Path(f"/proc/{pid}/fd") / fd for fd in os.listdir(f"/proc/{pid}/fd"))
    return sum("memfd:condensed-tokens" in os.readlink(link) for link in links if link.is_symlink())


def is_right(answer, text):
    found = decode(answer.body, answer.headers["Content-Type"], LIMITS, target_model="wide")
    return found.embeds.tobytes() == Wide.matrix(text).tobytes()


@contextlib.asynccontextmanager
async def worker():
    lost = asyncio.Event()
    replica = Replica(0, spec("wide_condensers:Wide"), lost.set)
    await replica.load()
    try:
        yield replica
    finally:
        await replica.close()


def jobs(texts, reply=SAFETENSORS):
    return [Job(text, reply) for text in texts]


def test_answers_of_every_size_arrive_whole_batch_after_batch():
    shapes = ["1x64", "512x512", "256x4096", "2x3", "1x300000", "700x1024"]
    texts = [f"{shape} {'.' * number}" for number, shape in enumerate(shapes)]

    async def go():
        async with worker() as replica:
            for some in (texts, texts[:1], texts[::-1]):
                for reply in (SAFETENSORS, JSON):
                    found = await replica.run(jobs(some, reply), WAIT_S)
                    assert all(map(is_right, found, some))
            (one,) = await replica.run(jobs(["256x4096"]), WAIT_S)
            assert one.headers["X-Condense-Shape"] == "256,4096"

    asyncio.run(go())


def test_a_worker_that_is_killed_leaves_no_memory_behind():
    async def go():
        before = blocks()
        async with worker() as replica:
            for _ in range(3):
                (answer,) = await replica.run(jobs(["256x4096"]), WAIT_S)
                assert is_right(answer, "256x4096")
                (pid,) = children()
                assert (blocks(), blocks(pid)) == (before + 1, 1)
                os.kill(pid, signal.SIGKILL)
                with pytest.raises(WorkerLostError):
                    await replica.run(jobs(["256x4096"]), WAIT_S)
                await replica.load()
        assert blocks() == before
        assert not any(map(alive, children()))

    asyncio.run(go())


FRONT = """
import asyncio
from engine_process import WAIT_S, children, spec
from neural_condense_core.serving.jobs import Job
from neural_condense_core.serving.replica import Replica
from neural_condense_core.wire.codec import JSON

async def go():
    replica = Replica(0, spec("wide_condensers:Wide"), lambda: None)
    await replica.load()
    await replica.run([Job("256x4096", JSON)], WAIT_S)
    print(*children(), flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(go())
"""


def test_a_front_that_is_killed_takes_worker_and_memory_along(tmp_path):
    script = tmp_path / "front.py"
    script.write_text(FRONT)

    async def go():
        front = await asyncio.create_subprocess_exec(
            sys.executable, str(script), stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )  # fmt: skip
        try:
            async with asyncio.timeout(60):
                (worker,) = map(int, (await front.stdout.readline()).split())
            assert blocks(worker) == 1
        finally:
            with contextlib.suppress(ProcessLookupError):
                front.kill()
        async with asyncio.timeout(20):
            _, said = await front.communicate()
        await until(lambda: not alive(worker))
        return said.decode()

    # The pool's own semaphores are told of; memory is not, as there is none left to tell of.
    assert "shared_memory" not in asyncio.run(go())
