from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from neural_condense_core.condensers.base import LoadOptions
from neural_condense_core.condensers.echo import EchoCondenser, read_echo
from neural_condense_core.errors import RequestError


@pytest.mark.parametrize("ratio", [1, 2.5, 4, 16, 60])
@pytest.mark.parametrize("text", ["a", "Hello, world!", "\U0001f600 \u732b \x00\x7f", "x" * 500])
def test_what_goes_in_can_be_read_back(text, ratio):
    condenser = EchoCondenser()
    (tokens,) = condenser.condense([condenser.tokenize(text)], ratio)
    assert read_echo(tokens).decode() == text
    assert tokens.n_condensed_tokens == condenser.n_condensed_tokens(len(text.encode()), ratio)
    assert np.linalg.norm(tokens.embeds, axis=1).max() <= 8


def test_values_survive_half_precision():
    condenser = EchoCondenser()
    (tokens,) = condenser.condense([list(range(256))], 8)
    np.testing.assert_array_equal(tokens.embeds, tokens.embeds.astype(np.float16))
    bfloat16 = (tokens.embeds.view(np.uint32) & 0xFFFF0000).view(np.float32)
    np.testing.assert_array_equal(tokens.embeds, bfloat16)


def test_what_does_not_fit_the_width_is_left_out():
    (tokens,) = EchoCondenser(hidden_size=4).condense([list(b"abcdef")], 6)
    assert read_echo(tokens) == b"abc"


def test_lone_surrogates_do_not_raise():
    assert EchoCondenser().tokenize("a\ud800b") == list(b"a?b")


def test_the_target_is_whatever_is_asked():
    condenser = EchoCondenser.load(LoadOptions("any/model"))
    assert (condenser.target_model, condenser.hidden_size) == ("any/model", 64)


def test_a_ratio_below_one_is_refused():
    with pytest.raises(RequestError):
        EchoCondenser().condense([[1, 2]], 0.5)


def test_it_loads_without_torch():
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None)\n"
        "from neural_condense_core.condensers.checkpoints import load_condenser\n"
        "echo = load_condenser('echo')\n"
        "print(echo.condense([echo.tokenize('abcd')], 4)[0].n_condensed_tokens)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("1", "")
