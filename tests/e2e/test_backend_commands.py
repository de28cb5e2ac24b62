"""The backend by its command lines, as processes."""

import http.client
import json
import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from backend_process import (
    LAUNCHERS,
    WAIT_S,
    alive,
    cpu_s,
    error_of,
    read_batches,
    run,
    serving,
    waited_s,
)

from neural_condense_core.condensers.echo import read_echo
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import decode


def text_of(reply):
    tokens = decode(
        reply.content,
        reply.headers["content-type"],
        Limits(10**7, 10**5),
        target_model=None if "json" not in reply.headers["content-type"] else "toy",
    )
    return read_echo(tokens).decode()


@pytest.fixture(scope="module")
def trouble(tmp_path_factory):
    log = tmp_path_factory.mktemp("trouble") / "log"
    args = ("--condenser", "backend_condensers:Trouble", "--target_model", "toy")
    environment = {"TROUBLE_LOG": str(log)}
    with serving(*args, environment=environment) as server:
        server.batches = lambda: read_batches(log)
        yield server.ready()
        assert server.stop() == 0


def test_good_input_in_every_format(trouble):
    reply = trouble.condense("A good context.")
    assert reply.status_code == 200
    assert set(reply.json()) == {
        "compressed_tokens",
        "target_model",
        "n_context_tokens",
        "n_condensed_tokens",
        "positions",
    }
    bare = trouble.condense("A good context.", Accept="application/json; shape=list").json()
    assert bare == reply.json()["compressed_tokens"]
    for accept in ("application/json; encoding=base64", "application/vnd.safetensors"):
        assert text_of(trouble.condense("Ein Haus, ein 🏠.", Accept=accept)) == "Ein Haus, ein 🏠."


def test_every_error_row(trouble):
    post, client, url = trouble.post, trouble.client, trouble.url + "/condense"
    good = {"context": "a"}
    rows = [
        (client.post(url, content=b"{", headers={"Content-Type": "application/json"}), 400),
        (trouble.get("/nowhere"), 404),
        (post({**good, "target_model": "other"}), 404),
        (trouble.get("/condense"), 405),
        (trouble.condense("a", Accept="image/png"), 406),
        (trouble.condense("a" * 16_385), 413),
        (post({"context": "a" * 4_000_001}), 413),
        (client.post(url, content=b"context=a", headers={"Content-Type": "text/plain"}), 415),
        (post({}), 422),
        (post({"context": 1}), 422),
        (post({"context": ""}), 422),
        (post({"context": " \n"}), 422),
        (post({**good, "ratio": 0.1}), 422),
    ]
    assert [reply.status_code for reply, _ in rows] == [status for _, status in rows]
    for reply, _ in rows:
        assert set(reply.json()["error"]) == {"code", "message", "detail"}
        assert "aaaa" not in reply.text
    assert trouble.condense("a" * 16_384).status_code == 200


@pytest.mark.parametrize("size", [4_000_001, 9_000_000])
def test_a_chunked_body_is_counted_while_it_is_read(trouble, size):
    host, port = trouble.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=WAIT_S)
    chunks = (b"a" * 100_000 for _ in range(-(-size // 100_000)))
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/condense", chunks, headers, encode_chunked=True)
    reply = connection.getresponse()
    assert reply.status == 413
    assert json.loads(reply.read())["error"]["code"] == "body_too_large"
    connection.close()


def test_documentation_and_health(trouble):
    assert "/condense" in trouble.get("/openapi.json").json()["paths"]
    assert trouble.get("/health/live").json() == {"state": "live"}
    assert trouble.get("/health/ready").json() == {
        "state": "ready",
        "workers": 1,
        "total": 1,
        "reason": None,
    }
    info = trouble.get("/info").json()
    assert (info["target_model"], info["hidden_size"]) == ("toy", 64)


def test_it_says_that_it_runs_on_the_cpu_and_which_tiers_that_meets(trouble):
    assert "running on the CPU" in trouble.log
    assert re.search(r"tier inference_0: 1,536 characters take [\d,]+ ms of 4,000 ms", trouble.log)


def test_a_poisoned_context_does_not_fail_its_neighbours_nor_reach_the_log(trouble):
    with ThreadPoolExecutor(4) as pool:
        block = pool.submit(trouble.condense, "SLEEP0.5")
        trouble.until(lambda: ["SLEEP0.5"] in trouble.batches(), "the block")
        texts = ("tulip fields", "RAISE poppies", "daisy meadow")
        replies = list(pool.map(trouble.condense, texts))
        assert block.result().status_code == 200
    assert [reply.status_code for reply in replies] == [200, 500, 200]
    assert error_of(replies[1]) == (500, "internal")
    trouble.until(lambda: "ValueError" in trouble.log, "the log")
    assert not re.search("tulip|poppies|daisy", trouble.log + replies[1].text)


def test_a_killed_worker_is_replaced_and_its_request_answered(trouble):
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(trouble.condense, "SLEEP0.5 orphan")
        trouble.until(lambda: ["SLEEP0.5 orphan"] in trouble.batches(), "the request")
        (before,) = trouble.workers()
        os.kill(before, signal.SIGKILL)
        assert asked.result().status_code == 200
    trouble.ready()
    assert trouble.workers() != [before]
    assert trouble.condense("again").status_code == 200


def test_a_context_that_kills_its_worker_is_503(trouble):
    reply = trouble.condense("CRASH")
    assert error_of(reply) == (503, "unavailable")
    assert int(reply.headers["retry-after"]) >= 1
    trouble.ready()


def test_a_client_that_hangs_up_is_never_computed(trouble):
    host, port = trouble.url.removeprefix("http://").split(":")
    with ThreadPoolExecutor(1) as pool:
        block = pool.submit(trouble.condense, "SLEEP0.8 busy")
        trouble.until(lambda: ["SLEEP0.8 busy"] in trouble.batches(), "the block")
        with socket.create_connection((host, int(port))) as gone:
            body = b'{"context": "hung up"}'
            gone.sendall(
                b"POST /condense HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            time.sleep(0.2)
        block.result()
    assert trouble.condense("still here").status_code == 200
    assert ["hung up"] not in trouble.batches()


def test_every_flag_has_an_effect(tmp_path):
    log, weights = tmp_path / "log", tmp_path / "weights"
    weights.mkdir()
    flags = {
        "condenser": "backend_condensers:Recorder",
        "checkpoint": str(weights),
        "target-model": "toy",
        "devices": "2",
        "workers-per-device": "2",
        "accelerator": "cpu",
        "dtype": "float32",
        "ratio": "8",
        "max_batch_tokens": "40",
        "max_context_tokens": "100",
        "max_queued_tokens": "200",
        "timeout": "4",
        "api_path": "/v1/condense",
        "reply": "list",
        "host": "127.0.0.2",
        "logging_level": "info",
    }
    args = [part for name, value in flags.items() for part in (f"--{name}", value)]
    with serving(*args, environment={"TROUBLE_LOG": str(log)}) as server:
        server.ready()
        assert server.url.startswith("http://127.0.0.2:")
        server.until(lambda: server.get("/health/ready").json().get("workers") == 4, "4 workers")
        loads = [json.loads(line) for line in log.read_text().splitlines() if "device" in line]
        assert len({load.pop("pid") for load in loads}) == 4
        assert (
            loads
            == [
                {
                    "target_model": "toy",
                    "checkpoint": str(weights),
                    "device": "cpu",
                    "dtype": "float32",
                }
            ]
            * 4
        )
        reply = server.condense("x" * 80)
        assert isinstance(reply.json(), list)
        assert len(reply.json()) == 10
        assert server.post({"context": "x"}, path="/condense").status_code == 404
        assert error_of(server.condense("x" * 101)) == (413, "context_too_long")
        with ThreadPoolExecutor(20) as pool:
            blocks = [pool.submit(server.condense, f"SLEEP2.5 block {i:020}") for i in range(4)]
            server.until(lambda: len(read_batches(log)) >= 5, "all workers to be busy")
            replies = list(pool.map(server.condense, ["y" * 20] * 14))
            refused = [reply for reply in replies if reply.status_code != 200]
            assert len(refused) >= 4
            assert {error_of(reply) for reply in refused} == {(429, "overloaded")}
            assert all(int(reply.headers["retry-after"]) >= 1 for reply in refused)
            assert {asked.result().status_code for asked in blocks} == {200}
        assert max(map(len, read_batches(log))) == 2
        start_s = time.monotonic()
        assert error_of(server.condense("SLEEP6")) == (504, "deadline")
        assert 3.9 < time.monotonic() - start_s < 5.9
        assert server.stop() == 0


def test_logging_level_silences():
    with serving("--condenser", "echo", "--logging_level", "error") as server:
        time.sleep(1.0)
        server.until(lambda: server.workers(), "the worker")
        assert server.stop() == 0
        assert server.log == ""


def test_live_answers_soon_after_the_start():
    taken_s = []
    while not taken_s or (min(taken_s) >= 5.0 and len(taken_s) < 3):
        with serving("--condenser", "backend_condensers:Slow") as server:
            server.bound()
            assert server.get("/health/live").status_code == 200
            wall_s = time.monotonic() - server.start_s
            # What the machine gave to others meanwhile says nothing of this process.
            taken_s.append(wall_s - waited_s(server.process.pid))
            assert cpu_s(server.process.pid) < 2.0
    assert min(taken_s) < 5.0


def test_live_comes_long_before_ready_and_a_loading_backend_can_be_stopped():
    args = ("--condenser", "backend_condensers:Slow")
    with serving(*args, environment={"SLOW_LOAD_S": "60"}) as server:
        server.bound()
        assert server.get("/health/live").status_code == 200
        server.until(lambda: server.get("/health/ready").json()["stage"] == "load", "loading")
        reply = server.get("/health/ready")
        assert reply.status_code == 503
        assert set(reply.json()) == {
            "state", "stage", "done", "elapsed_s", "reason", "workers", "total",
        }  # fmt: skip
        assert reply.json()["state"] == "loading"
        early = server.condense("early" * 200_000)
        assert error_of(early) == (503, "unavailable")
        assert int(early.headers["retry-after"]) >= 1
        assert server.get("/info").status_code == 503
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_drains(number, tmp_path):
    log = tmp_path / "log"
    args = ("--condenser", "backend_condensers:Trouble")
    with serving(*args, environment={"TROUBLE_LOG": str(log)}) as server:
        server.ready()
        everyone = server.children()
        with ThreadPoolExecutor(2) as pool:
            busy = pool.submit(server.condense, "SLEEP3.0 in flight")
            server.until(lambda: read_batches(log), "the request")
            waiting = pool.submit(server.condense, "in the queue")
            time.sleep(1.0)
            os.killpg(server.process.pid, number)
            server.until(lambda: server.get("/health/ready").status_code == 503, "draining")
            assert server.get("/health/ready").json()["state"] == "draining"
            assert error_of(server.condense("too late")) == (503, "unavailable")
            assert busy.result().status_code == 200
            assert waiting.result().status_code == 200
        assert server.ended(everyone) == 0
        assert "Traceback" not in server.log


def test_a_second_signal_does_not_wait():
    with serving("--condenser", "backend_condensers:Trouble") as server:
        server.ready()
        with ThreadPoolExecutor(1) as pool:
            hung = pool.submit(server.condense, "HANG")
            time.sleep(0.5)
            start_s = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            server.until(lambda: server.get("/health/ready").status_code == 503, "draining")
            assert server.stop(signal.SIGINT) == 0
            assert time.monotonic() - start_s < 20
            assert error_of(hung.result()) == (503, "unavailable")
        assert "Traceback" not in server.log


def test_no_worker_outlives_a_killed_parent_and_echo_loads_no_torch():
    with serving("--condenser", "echo", "--workers_per_device", "2") as server:
        server.ready()
        server.until(lambda: server.get("/health/ready").json()["workers"] == 2, "both workers")
        everyone = server.children()
        assert len(server.workers()) == 2
        for pid in (server.process.pid, *everyone):
            assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
        server.process.kill()
        server.process.wait(WAIT_S)
        server.until(lambda: not any(map(alive, everyone)), "the workers to end")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--condenser", "echo", "--worker_per_device", "1"), "--workers_per_device"),
        (("--condenser", "ecko", "--port", "0"), "Did you mean 'echo'"),
        (("--condenser", "echo", "--accelerator", "cuda", "--devices", "9", "--port", "0"), "CUDA"),
        (("--condenser", "echo", "--api_path", "/info"), "--api_path"),
    ],
)
def test_usage_and_configuration_errors_exit_2(args, said):
    done = run(*args)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_exits_2():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("--condenser", "echo", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "--port" in done.stderr


@pytest.mark.parametrize("name", ["icae_app.py", "pooled_app.py"])
def test_launchers_run_from_anywhere(name, tmp_path):
    command = (str(LAUNCHERS / name),)
    done = run("--help", command=command, cwd=tmp_path)
    assert done.returncode == 0
    for flag in ("--port", "--devices", "--workers_per_device", "--checkpoint"):
        assert flag in done.stdout
    assert "--condenser" not in done.stdout
    args = ("--port", "0", "--devices", "1", "--workers_per_device", "1")
    missing = run(*args, "--checkpoint", "no/such/folder", command=command, cwd=tmp_path)
    assert missing.returncode == 2
    assert "no/such/folder" in missing.stderr
    assert "Traceback" not in missing.stderr
