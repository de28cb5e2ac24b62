"""Both launchers, by the specification's command line, with small checkpoints of their own."""

import numpy as np
import pytest
from backend_process import LAUNCHERS, serving

from neural_condense_core.client.backend import BackendClient
from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.checkpoints import load_condenser
from neural_condense_core.condensers.registry import METHODS

SMALL = {"n_layers": 2, "lora_r": 4}
TEXT = "The brothers carried the nets ashore. Schön, \U0001f680 and <|im_end|> too. " * 8
ARGS = ("--devices", "1", "--workers_per_device", "1")


@pytest.fixture(scope="module")
def checkpoints(tiny_llama, tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    for method in ("icae", "pooled"):
        options = LoadOptions(tiny_llama, dtype="float32")
        condenser = METHODS.get(method).create(options, SMALL)
        condenser.save(root / method, f"tiny-{method}", condenser.ratios)
    return root


@pytest.mark.parametrize("method", ["icae", "pooled"])
def test_a_launcher_serves_what_its_condenser_makes(checkpoints, method):
    folder = str(checkpoints / method)
    condenser = load_condenser(folder, dtype="float32")
    (expected,) = condenser.condense([condenser.tokenize(TEXT)], 4)
    args = (*ARGS, "--checkpoint", folder, "--dtype", "float32")
    with serving(*args, command=(str(LAUNCHERS / f"{method}_app.py"),)) as server:
        server.bound()
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
