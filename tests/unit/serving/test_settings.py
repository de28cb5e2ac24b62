import math

import pytest

from neural_condense_core.errors import ConfigError
from neural_condense_core.serving.settings import ServeSettings


def test_defaults():
    settings = ServeSettings("echo")
    assert (settings.host, settings.port, settings.api_path) == ("127.0.0.1", 8080, "/condense")
    assert (settings.max_context_tokens, settings.timeout_s) == (16_384, 60.0)
    assert settings.queued_tokens == 65_536


def test_the_longest_context_always_fits_the_default_queue():
    assert ServeSettings("echo", max_context_tokens=100_000).queued_tokens == 100_000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accelerator": "tpu"}, "--accelerator"),
        ({"reply": "matrix"}, "--reply"),
        ({"dtype": "int8"}, "--dtype"),
        ({"logging_level": "loud"}, "--logging_level"),
        ({"log_format": "xml"}, "--log_format"),
        ({"cache_mb": -1}, "--cache_mb"),
        ({"hang_timeout_s": 59.0}, "--hang_timeout"),
        ({"hang_timeout_s": math.nan}, "--hang_timeout"),
        ({"hang_timeout_s": math.inf}, "--hang_timeout"),
        ({"devices": 0}, "--devices"),
        ({"workers_per_device": 0}, "--workers_per_device"),
        ({"ratio": 0.5}, "--ratio"),
        ({"ratio": math.nan}, "--ratio"),
        ({"ratio": math.inf}, "--ratio"),
        ({"refine_steps": 0}, "--refine_steps"),
        ({"refine_ms": 0.5}, "--refine_ms"),
        ({"refine_ms": math.nan}, "--refine_ms"),
        ({"refine_ms": 9.0, "refine_steps": 9}, "--refine_steps and --refine_ms"),
        ({"max_batch_tokens": 0}, "--max_batch_tokens"),
        ({"max_context_tokens": 0}, "--max_context_tokens"),
        ({"max_queued_tokens": 0}, "--max_queued_tokens"),
        ({"max_queued_tokens": 10, "max_context_tokens": 11}, "--max_queued_tokens"),
        ({"timeout_s": 0.0}, "--timeout"),
        ({"timeout_s": math.nan}, "--timeout"),
        ({"port": 70_000}, "--port"),
        ({"api_path": "condense"}, "--api_path"),
        ({"api_path": "/"}, "--api_path"),
        ({"api_path": "/{x}"}, "--api_path"),
        ({"api_path": "/info"}, "--api_path"),
        ({"api_path": "/metrics"}, "--api_path"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_flag(change, said):
    with pytest.raises(ConfigError, match=said):
        ServeSettings("echo", **change)


def test_refinement_stands_behind_the_name():
    assert ServeSettings("echo").refined == "echo"
    assert ServeSettings("echo", refine_steps=8).refined == "echo+refine=8"
    assert ServeSettings("a+budget=tail", refine_ms=1500).refined == "a+budget=tail+refine=1500ms"
    with pytest.raises(ConfigError, match="each once"):
        ServeSettings("echo+refine=8", refine_steps=8)
