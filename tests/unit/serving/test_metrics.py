import pytest
from prometheus_client.parser import text_string_to_metric_families

from neural_condense_core import errors
from neural_condense_core.serving.metrics import Metrics, outcomes
from neural_condense_core.serving.timings import Timings


def read(metrics):
    families = text_string_to_metric_families(metrics.write().decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_an_answer_is_counted_with_its_times():
    metrics = Metrics()
    metrics.answered(Timings(0.001, 0.02, 0.3, 100), 0.4)
    metrics.answered(Timings(cache="hit", n_tokens=5), 0.001)
    metrics.answered(Timings(cache="miss", n_tokens=5), 0.001)
    found = read(metrics)
    assert found["condense_requests_total", "ok"] == 3
    assert found["condense_request_duration_seconds_sum",] == pytest.approx(0.402)
    assert found["condense_queue_duration_seconds_count",] == 2, "a hit does not queue"
    assert found["condense_request_input_tokens_sum",] == 110
    assert found["condense_cache_total", "hit"] == found["condense_cache_total", "miss"] == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.OverloadedError("x", {"reason": "predicted_wait"}), "predicted_wait"),
        (errors.OverloadedError("x", {"reason": "made up by a client"}), "other"),
        (errors.OverloadedError("x"), "other"),
        (errors.UnavailableError("x"), "not_ready"),
        (errors.RequestError("x"), None),
        (errors.DeadlineError("x"), None),
    ],
)
def test_a_failure_is_counted_by_code_and_a_rejection_by_reason(error, reason):
    metrics = Metrics()
    metrics.failed(error)
    found = read(metrics)
    assert found["condense_requests_total", error.code] == 1
    rejected = {key[1]: n for key, n in found.items() if key[0] == "condense_rejections_total"}
    assert {key for key, n in rejected.items() if n} == ({reason} if reason else set())


def test_no_client_adds_a_series():
    metrics = Metrics()
    before = len(metrics.write().splitlines())

    class Odd(errors.RequestError):
        code = "never seen"

    metrics.failed(Odd("x"))
    metrics.gone()
    metrics.dropped("expired")
    metrics.batch(3, 100, 0.1)
    assert len(metrics.write().splitlines()) == before
    assert read(metrics)["condense_requests_total", "internal"] == 1


def test_what_is_watched_is_read_when_it_is_written():
    metrics, waiting = Metrics(), []
    metrics.watch("queue_size", "Requests that wait", lambda: len(waiting))
    waiting += [1, 2]
    assert read(metrics)["condense_queue_size",] == 2


def test_every_code_is_an_outcome():
    assert {"internal", "overloaded", "unavailable", "deadline", "malformed"} <= set(outcomes())
