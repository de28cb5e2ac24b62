"""What starts without torch stays without it, and starts fast.

Seconds are the process's own (CPU time), so that a busy machine does not decide.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

TORCH_FREE = (
    "neural_condense_core.chain.connect",
    "neural_condense_core.chain.devchain.substrate",
    "neural_condense_core.chain.sdk",
    "neural_condense_core.cli",
    "neural_condense_core.client",
    "neural_condense_core.client.backend",
    "neural_condense_core.condensers.echo",
    "neural_condense_core.condensers.registry",
    "neural_condense_core.constants",
    "neural_condense_core.client.gateway",
    "neural_condense_core.gateway.app",
    "neural_condense_core.gateway.server",
    "neural_condense_core.corpus",
    "neural_condense_core.corpus.cli",
    "neural_condense_core.llm.base",
    "neural_condense_core.llm.embedded",
    "neural_condense_core.loadtest.cli",
    "neural_condense_core.serving.app",
    "neural_condense_core.serving.cli",
    "neural_condense_core.tokens",
    "neural_condense_core.wire.codec",
    "neural_condense_core.wire.messages",
    "neural_condense_core.wire.signing",
    "neural_condense_core.config",
    "neural_condense_core.miner.node",
    "neurons.miner",
    "neural_condense_core.validator.gate",
    "neural_condense_core.validator.node",
    "neurons.validator",
)
MAX_IMPORT_S = 1.5
ATTEMPTS = 3

PROGRAM = """
import importlib, json, sys, time

class Blocker:
    tried = []
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "peft"):
            self.tried.append(name)
            raise ImportError(f"{name} is blocked here")

sys.meta_path.insert(0, Blocker())
began = time.process_time()
importlib.import_module(sys.argv[1])
print(json.dumps({"seconds": time.process_time() - began, "tried": Blocker.tried}))
"""


def import_alone(module: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, module],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", TORCH_FREE)
def test_it_imports_without_torch_in_time(module):
    found = import_alone(module)
    assert found["tried"] == []
    seconds = found["seconds"]
    for _ in range(ATTEMPTS - 1):  # the fastest counts; the first may compile bytecode
        if seconds < MAX_IMPORT_S:
            break
        seconds = min(seconds, import_alone(module)["seconds"])
    assert seconds < MAX_IMPORT_S


def test_the_blocker_blocks():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "torch"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "torch is blocked here" in done.stderr


def test_torch_is_installed():
    assert importlib.util.find_spec("torch") is not None, "then blocking it would prove nothing"
