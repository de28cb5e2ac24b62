"""Engines with real workers, for the tests of the backend."""

import asyncio
import contextlib
import os
import time
from pathlib import Path

from neural_condense_core.condensers.echo import read_echo
from neural_condense_core.serving.engine import Engine
from neural_condense_core.serving.jobs import WorkerSpec
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import SAFETENSORS, from_safetensors

WAIT_S = 60.0


def spec(condenser="backend_condensers:Trouble", **changes):
    fields = {
        "condenser": condenser,
        "checkpoint": None,
        "target_model": None,
        "ratio": None,
        "dtype": "auto",
        "device": "cpu",
        "threads": 1,
        "max_context_tokens": 200,
        "warm_up_chars": (16,),
        **changes,
    }
    return WorkerSpec(**fields)


@contextlib.asynccontextmanager
async def running(specs=None, *, wait=True, timeout_s=30.0, max_queued_tokens=4000, **kwargs):
    engine = Engine(
        specs or [spec()],
        max_queued_tokens=max_queued_tokens,
        max_batch_tokens=kwargs.pop("max_batch_tokens", 256),
        timeout_s=timeout_s,
        **kwargs,
    )
    engine.start()
    try:
        if wait:
            await until(lambda: engine.readiness().workers == len(engine.specs))
        yield engine
    finally:
        await engine.close()
        assert not any(alive(pid) for pid in children())


async def until(condition):
    give_up_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_s, "waited too long"
        await asyncio.sleep(0.02)


def condense(engine, text, *, reply=SAFETENSORS, timeout_s=None, **asked):
    limit_s = engine.timeout_s if timeout_s is None else timeout_s
    deadline_s = asyncio.get_running_loop().time() + limit_s
    return engine.condense(text, reply, deadline_s=deadline_s, **asked)


def text_of(answer):
    return read_echo(from_safetensors(answer.body, Limits(10**6, 1000))).decode()


def children():
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
            if int(fields[1]) == os.getpid() and b"spawn_main" in command:
                found.append(int(stat.parent.name))
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
