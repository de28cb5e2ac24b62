"""A gateway for a benchmark: started on loopback, awaited, ended."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

LOAD_TIMEOUT_S = 900.0
ANSWER_TIMEOUT_S = 3_000.0


@contextlib.contextmanager
def local_gateway(flags: Sequence[str] = ()) -> Iterator[str]:
    """Start ``condense gateway`` with flags, and give its address once it takes requests.

    Raises
    ------
    RuntimeError
        It did not start.
    """
    command = [sys.executable, "-m", "neural_condense_core.cli", "gateway", "--port", "0"]
    patient = ["--timeout", f"{ANSWER_TIMEOUT_S:g}"]
    process = subprocess.Popen([*command, *patient, *flags], stderr=subprocess.PIPE, text=True)
    try:
        line = (process.stderr or sys.stdin).readline()
        match = re.search(r"(http://\S+)/v1", line)
        if match is None:
            raise RuntimeError(f"the gateway did not start: {line}")
        _until_ready(match[1])
        yield match[1]
    finally:
        process.terminate()
        process.wait(60)


def _until_ready(url: str) -> None:
    give_up_s = time.monotonic() + LOAD_TIMEOUT_S
    while time.monotonic() < give_up_s:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health/ready", trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"{url} was not ready within {LOAD_TIMEOUT_S:g} s")


def chat_completion(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask for a chat completion, greedily, and return the reply.

    Raises
    ------
    RuntimeError
        It was refused.
    """
    reply = httpx.post(
        f"{url}/v1/chat/completions",
        json={"temperature": 0, **body},
        timeout=ANSWER_TIMEOUT_S,
        trust_env=False,
    )
    found: dict[str, Any] = reply.json()
    if reply.status_code != 200:
        said = found["error"]["message"]
        raise RuntimeError(f"the gateway answered {reply.status_code}: {said}")
    return found
