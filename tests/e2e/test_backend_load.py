"""The backend as a process, under load and at rest."""

import json
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from backend_process import alive, cpu_s, error_of, read_batches, serving

TROUBLE = ("--condenser", "backend_condensers:Trouble", "--target_model", "toy")


def metric(server, line):
    found = re.search(rf"^{re.escape(line)} (\S+)$", server.get("/metrics").text, re.MULTILINE)
    return float(found[1])


def test_sigterm_under_load_loses_no_accepted_request():
    statuses, stop = [], threading.Event()
    args = (*TROUBLE, "--workers_per_device", "2", "--max_batch_tokens", "40", "--cache_mb", "0")
    with serving(*args) as server:
        server.ready()
        server.until(lambda: server.get("/health/ready").json()["workers"] == 2, "both workers")
        everyone = server.children()

        def ask():
            while not stop.is_set():
                try:
                    reply = server.condense("SLEEP0.02 under load")
                    statuses.append(reply.status_code)
                    body = reply.json()
                    assert ("compressed_tokens" in body) == (reply.status_code == 200)
                except httpx.TransportError:
                    return  # the port is closed, or was while this still stood in its queue

        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask) for _ in range(8)]
            server.until(lambda: len(statuses) > 40, "some load")
            server.process.send_signal(signal.SIGTERM)
            code = server.ended(everyone)
            stop.set()
            for each in asking:
                each.result()
    assert code == 0
    logged = re.findall(r"POST /condense: (\d+) ", server.log)
    assert sorted(map(int, logged)) == sorted(statuses), "who was taken was answered"
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) > 40
    assert "Traceback" not in server.log


def test_at_rest_it_takes_no_processor():
    with serving("--condenser", "echo", "--workers_per_device", "2") as server:
        server.ready()
        server.until(lambda: server.get("/health/ready").json()["workers"] == 2, "both workers")
        server.condense("a")
        time.sleep(1.0)
        everyone = (server.process.pid, *server.children())
        before_s, rest_s = sum(map(cpu_s, everyone)), 6.0
        time.sleep(rest_s)
        assert sum(map(cpu_s, everyone)) - before_s <= 0.01 * rest_s


def test_kill_9_under_load_leaves_no_orphan():
    with serving(*TROUBLE, "--workers_per_device", "2") as server:
        server.ready()
        server.until(lambda: server.get("/health/ready").json()["workers"] == 2, "both workers")
        everyone = server.children()
        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(server.condense, f"SLEEP30 {i}") for i in range(2)]
            server.until(lambda: metric(server, "condense_requests_open") == 2, "the requests")
            server.process.kill()
            server.process.wait()
            assert all(isinstance(each.exception(), httpx.HTTPError) for each in asked)
        server.until(lambda: not any(map(alive, everyone)), "the workers to end")


def test_a_clients_own_time_limit_and_what_is_counted_of_it(tmp_path):
    log = tmp_path / "log"
    with serving(*TROUBLE, environment={"TROUBLE_LOG": str(log)}) as server:
        server.ready()
        with ThreadPoolExecutor(2) as pool:
            block = pool.submit(server.condense, "SLEEP3.0 busy")
            server.until(lambda: read_batches(log), "the block")
            start_s = time.monotonic()
            late = server.condense("late", **{"X-Request-Timeout": "0.5"})
            assert error_of(late) == (504, "deadline")
            assert 0.4 < time.monotonic() - start_s < 2.5
            assert error_of(server.condense("a", **{"X-Request-Timeout": "soon"})) == (
                422,
                "invalid_request",
            )
            assert block.result().status_code == 200
        assert ["late"] not in read_batches(log)
        assert metric(server, 'condense_dropped_total{reason="expired"}') == 1
        assert metric(server, 'condense_requests_total{outcome="deadline"}') == 1
        assert metric(server, "condense_workers_ready") == 1
        assert metric(server, "process_resident_memory_bytes") > 1e6
        assert server.stop() == 0


def test_json_logs_and_the_cache(tmp_path):
    log, kept = tmp_path / "log", tmp_path / "kept"
    args = (*TROUBLE, "--log_format", "json", "--cache_mb", "1", "--cache_dir", str(kept))
    environment = {"TROUBLE_LOG": str(log)}

    def text(server, **headers):
        return server.condense("a tulip in the field", **headers)

    with serving(*args, environment=environment) as server:
        server.ready()
        made = text(server, **{"X-Request-Id": "first"})
        found = text(server, **{"X-Request-Id": "second"})
        assert made.headers["x-condense-cache"] == "miss"
        assert found.headers["x-condense-cache"] == "hit"
        assert found.json()["compressed_tokens"] == made.json()["compressed_tokens"]
        assert float(found.headers["x-inference-time"]) == 0.0
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.lines]
        (first,) = [line for line in lines if line.get("request_id") == "first"]
        assert (first["status"], first["cache"], first["tokens"]) == (200, "miss", 20)
        assert first["total_ms"] >= first["inference_ms"] > 0
        assert "tulip" not in server.log
    assert os.listdir(kept)
    with serving(*args, environment=environment) as server:
        server.ready()
        assert text(server).headers["x-condense-cache"] == "hit", "it outlives the process"
        assert len(read_batches(log)) == 1
        assert server.stop() == 0
