"""Both launchers, by the specification's command line, with small checkpoints of their own.

They start at once and load while the test computes what they are to answer: nearly all of the time
goes into each process's import of torch.
"""

import contextlib

import numpy as np
import pytest
from backend_process import LAUNCHERS, serving

from neural_condense_core.client.backend import BackendClient
from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.condensers.registry import METHODS

SMALL = {"n_layers": 2, "lora_r": 4}
TEXT = "The brothers carried the nets ashore. Schön, \U0001f680 and <|im_end|> too. " * 8
ARGS = ("--devices", "1", "--workers_per_device", "1", "--dtype", "float32")
LAUNCHED = ("icae", "pooled")


@pytest.fixture(scope="module")
def checkpoints(tiny_llama, tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    for method in LAUNCHED:
        options = LoadOptions(tiny_llama, dtype="float32")
        condenser = METHODS.get(method).create(options, SMALL)
        condenser.save(root / method, f"tiny-{method}", condenser.ratios)
    return root


@pytest.fixture(scope="module")
def servers(checkpoints):
    with contextlib.ExitStack() as stack:
        yield {
            method: stack.enter_context(
                serving(
                    *ARGS,
                    "--checkpoint",
                    str(checkpoints / method),
                    command=(str(LAUNCHERS / f"{method}_app.py"),),
                )
            )
            for method in LAUNCHED
        }


@pytest.mark.parametrize("method", LAUNCHED)
def test_a_launcher_serves_what_its_condenser_makes(checkpoints, servers, method):
    condenser = load_condenser(str(checkpoints / method), dtype="float32")
    (expected,) = condenser.condense([condenser.tokenize(TEXT)], 4)
    server = servers[method].bound()
    with BackendClient(server.url) as client:
        client.wait_ready(240)
        found = client.condense(TEXT)
        assert client.info().condenser == method
    np.testing.assert_allclose(found.embeds, expected.embeds, atol=1e-4)
    assert found.positions.tolist() == expected.positions.tolist()
    assert found.target_model == expected.target_model
    # The front took the condenser's tokenizer, and it gave the same ids.
    assert "its worker tokenizes" not in server.log
    assert server.post({"context": TEXT, "ratio": 3}).status_code == 422
    assert server.stop() == 0
