"""Threads of a worker are set where the libraries will look, and never against the user."""

import os

import pytest

from neural_condense_core.threads import SPIN_COUNT, use_threads


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_threads_and_a_short_spin_are_set():
    use_threads(3)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["GOMP_SPINCOUNT"] == str(SPIN_COUNT)


@pytest.mark.parametrize(
    ("name", "value"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "ACTIVE")]
)
def test_who_decides_otherwise_is_left_alone(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    use_threads(1)
    assert os.environ[name] == value
    assert os.environ.get("GOMP_SPINCOUNT") in {None, "7"}
