import re
import time

import pytest

from neural_condense_core.serving.timings import Timings, request_id


def test_headers_are_milliseconds():
    timings = Timings(tokenization_s=0.001, queue_s=0.25, inference_s=0.5, n_tokens=7)
    assert timings.headers(0.7512345) == {
        "X-Total-Time": "751.235",
        "X-Tokenization-Time": "1.000",
        "X-Queue-Time": "250.000",
        "X-Inference-Time": "500.000",
        "X-Compute-Tokens": "7",
    }
    timings.cache = "hit"
    assert timings.headers(0.1)["X-Compute-Tokens"] == "0"


def test_total_runs_from_the_start():
    timings = Timings(start_s=time.perf_counter() - 2.0)
    assert 2.0 <= timings.total_s < 3.0


@pytest.mark.parametrize("offered", ["a", "7f3a-11", "trace:1.b_2", "x" * 64])
def test_a_sane_id_is_kept(offered):
    assert request_id(offered) == offered


@pytest.mark.parametrize(
    "offered", [None, "", "x" * 65, "a b", "a\nb", "-a", "\u00e9", 'a"b', "{}"]
)
def test_any_other_is_replaced_by_a_new_one(offered):
    made = {request_id(offered) for _ in range(5)}
    assert len(made) == 5
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", each) for each in made)
