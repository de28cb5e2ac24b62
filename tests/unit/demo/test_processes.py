"""Ports, and processes that are all gone in the end."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from neural_condense_core.demo.processes import Backend, BackendProcesses, free_port, is_free
from neural_condense_core.errors import ConfigError
from neural_condense_core.signals import Interrupted, StopSignals

SLEEP = "import time; time.sleep(600)"
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])
print(child.pid, flush=True)
time.sleep(600)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('deaf', flush=True)
time.sleep(600)
"""


def backend(code: str, name: str = "x") -> Backend:
    return Backend(name, (sys.executable, "-c", code, "{port}"))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_output(running) -> str:
    deadline = time.monotonic() + 20
    while not running.log_tail() and time.monotonic() < deadline:
        time.sleep(0.02)
    return running.log_tail()


@pytest.fixture
def processes(tmp_path):
    with StopSignals():
        found = BackendProcesses(tmp_path)
        yield found
        found.stop(grace_s=0.1)


@pytest.fixture
def listener():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        found.listen()
        yield found.getsockname()[1]


def test_a_taken_port_is_passed_over(listener):
    assert not is_free(listener)
    assert free_port(listener) > listener


def test_a_promised_port_is_passed_over():
    first = free_port(20_000)
    assert free_port(first, [first]) > first


def test_a_port_that_somebody_has_on_all_addresses_is_taken():
    with socket.socket() as found:
        found.bind(("0.0.0.0", 0))
        found.listen()
        assert not is_free(found.getsockname()[1])


def test_no_port_left(monkeypatch):
    monkeypatch.setattr("neural_condense_core.demo.processes.is_free", lambda port: False)
    with pytest.raises(ConfigError, match="no port from 65530"):
        free_port(65530)


def test_stop_ends_the_workers_too(processes):
    running = processes.start(backend(PARENT), 1234)
    worker = int(wait_for_output(running))
    assert is_alive(worker)
    processes.stop(grace_s=5)
    assert not is_alive(running.process.pid)
    deadline = time.monotonic() + 5
    while is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(worker)


def test_a_deaf_backend_is_killed_when_its_grace_is_over(processes):
    running = processes.start(backend(DEAF), 1234)
    assert wait_for_output(running) == "deaf"
    started = time.monotonic()
    processes.stop(grace_s=0.5)
    assert time.monotonic() - started < 5
    assert not is_alive(running.process.pid)
    assert running.process.returncode == -signal.SIGKILL


def test_a_worker_that_outlives_its_ended_leader_is_killed(processes):
    code = PARENT.rsplit("\n", 2)[0]  # without the last sleep: the leader ends at once
    running = processes.start(backend(code), 1234)
    worker = int(wait_for_output(running))
    deadline = time.monotonic() + 10
    while not running.has_ended() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running.has_ended()
    assert is_alive(worker)
    processes.stop(grace_s=0.1)
    deadline = time.monotonic() + 5
    while is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(worker)


def test_stop_may_be_called_again(processes):
    processes.start(backend(SLEEP), 1234)
    processes.stop()
    processes.stop()
    assert processes.running == []


def test_a_stop_that_was_cut_short_can_be_finished(processes):
    running = processes.start(backend(SLEEP), 1234)
    os.killpg(running.process.pid, signal.SIGKILL)
    running.process.wait()
    assert running.has_ended()
    processes.stop()
    assert processes.running == []


def test_the_port_is_filled_in(processes):
    running = processes.start(backend("import sys; print(sys.argv[1], flush=True)"), 1234)
    assert wait_for_output(running) == "1234"
    assert running.url == "http://127.0.0.1:1234"


def test_a_command_that_cannot_run_is_an_error(processes):
    with pytest.raises(ConfigError, match="cannot run"):
        processes.start(Backend("x", ("/no/such/program",)), 1234)
    assert processes.running == []


def test_a_signal_during_the_start_waits_until_the_child_is_known(processes, monkeypatch):
    import subprocess

    real = subprocess.Popen

    def interrupted(*args, **kwargs):
        found = real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGINT)
        return found

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(Interrupted):
        processes.start(backend(SLEEP), 1234)
    assert len(processes.running) == 1


def test_logs_that_are_kept_have_the_names_of_their_processes(tmp_path):
    logs = tmp_path / "kept" / "logs"
    with StopSignals():
        processes = BackendProcesses(tmp_path, logs=logs)
        running = processes.start(backend("print('hello', flush=True)", "a b/c"), 1234)
        assert wait_for_output(running) == "hello"
        processes.stop()
    assert (logs / "a-b-c.log").read_text().strip() == "hello"
