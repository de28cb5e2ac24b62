"""``condense loadtest`` by its command line, against backends of somebody else's and ours."""

import json
import subprocess
import sys

import pytest
from backend_process import ROOT, WAIT_S, run, serving

LOADTEST = ("-m", "neural_condense_core.cli", "loadtest")
BACKEND = str(ROOT / "tests" / "e2e" / "load_backend.py")
SHORT = ("--duration", "4", "--warm_up", "0.5", "--rate", "8", "--hidden_size", "8")


@pytest.fixture
def backend():
    """Starts a backend with flags and returns its address."""
    started = []

    def start(*flags):
        process = subprocess.Popen(
            [sys.executable, BACKEND, "0", *flags], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return f"http://127.0.0.1:{int(process.stdout.readline())}"

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=WAIT_S)


def loadtest(*arguments):
    return run(*arguments, command=LOADTEST)


def test_a_backend_that_answers_bare_lists_passes(backend, tmp_path):
    url, page = backend("--timing"), tmp_path / "page.html"
    done = loadtest(
        "--url", url, "--tier", "inference_0", *SHORT, "--seed", "5", "--json", "-",
        "--report", str(page),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"] == "PASS"
    assert found["n_scheduled"] == found["n_good"] == 32
    assert found["offered_rps"] == 8.0
    assert found["errors"] == {}
    assert 0 < found["p50_s"] <= found["p90_s"] <= found["p95_s"] <= found["p99_s"]
    assert found["p99_s"] <= found["max_s"] < 4.0
    assert found["max_good_rps"] is None
    assert found["server_inference"]["p50_s"] == 0.0025
    assert found["machine"]["cores"] >= 1
    assert "PASS: serves inference_0" in done.stderr
    assert "<title>PASS:" in page.read_text()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("reply", ["object", "base64", "npy", "safetensors"])
def test_every_form_of_reply_passes(backend, reply):
    url = backend("--reply", reply, "--path", "/api/v2")
    done = loadtest(
        "--url", url, "--tier", "inference_0", *SHORT, "--duration", "1", "--api_path", "/api/v2"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--fault", "nan", "--reply", "npy"), "malformed_not_finite"),
        (("--fault", "text"), "malformed_json"),
        (("--hidden", "9"), "malformed_hidden_size"),
        (("--rows", "257", "--reply", "npy"), "malformed_too_many_tokens"),
        (("--status", "429"), "http_429"),
    ],
)
def test_fast_garbage_fails(backend, flags, code):
    url = backend(*flags)
    done = loadtest("--url", url, "--tier", "inference_0", *SHORT, "--duration", "1", "--json", "-")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert (found["verdict"], found["errors"]) == ("FAIL", {code: found["n_scheduled"]})
    assert found["goodput_rps"] == 0
    assert found["p50_s"] is None


def test_one_error_in_twenty_fails(backend):
    url = backend("--fail_every", "20")
    done = loadtest("--url", url, "--tier", "inference_0", *SHORT, "--rate", "25", "--json", "-")
    found = json.loads(done.stdout)
    assert (done.returncode, found["verdict"]) == (1, "FAIL")
    assert 4 <= found["errors"]["http_500"] <= 6
    assert "must" in done.stderr


@pytest.mark.slow
def test_the_search_finds_a_known_capacity(backend):
    """Ten a second at most, as each takes 100 ms and none is served beside another."""
    url = backend("--service", "0.1")
    done = loadtest(
        "--url", url, "--tier", "inference_0", *SHORT, "--rate", "4", "--find-max",
        "--search_seconds", "45", "--json", "-",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 4 <= found["max_good_rps"] < 12
    assert found["search"]["ending"] in {"found", "time", "generator"}
    steps = found["search"]["steps"]
    assert [step["rate_rps"] for step in steps[:2]] == [4.0, 8.0]
    too_many = [step for step in steps if step["rate_rps"] >= 16]
    assert all(step["achieved_rps"] < 12 and not step["is_good"] for step in too_many)


def test_a_tier_s_timeout_decides(backend, tmp_path):
    tiers = tmp_path / "tiers.toml"
    tiers.write_text("[tiers.inference_0]\ntimeout_s = 0.3\n")
    url = backend("--service", "0.5")
    done = loadtest(
        "--url", url, "--tier", "inference_0", "--tiers", str(tiers), *SHORT, "--duration", "1",
        "--json", "-",
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert (done.returncode, found["verdict"]) == (1, "FAIL")
    assert found["errors"] == {"timeout": found["n_scheduled"]}
    assert found["max_s"] == found["timeout_s"] == 0.3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tier", "inference0"), "Did you mean 'inference_0'"),
        (("--tier", "research", "--rate", "0"), "--rate"),
        (("--tier", "research", "--rate", "10000", "--duration", "80000"), "requests"),
        (("--tier", "research", "--api_path", "condense"), "--api_path"),
        (("--tier", "research", "--json", "/nowhere/x.json"), "cannot write"),
        (("--tier", "research", "--texts", "nothing"), "no texts"),
    ],
)
def test_a_command_line_that_cannot_be_exits_2(backend, arguments, said):
    done = loadtest("--url", backend(), *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_that_is_none_exits_2():
    done = loadtest("--url", "localhost:8080", "--tier", "research")
    assert done.returncode == 2
    assert "no URL" in done.stderr


def test_a_route_that_is_not_there_exits_2(backend):
    done = loadtest("--url", backend("--path", "/other"), "--tier", "research")
    assert done.returncode == 2, done.stderr
    assert "--api_path" in done.stderr


def test_nobody_there_exits_3():
    done = loadtest("--url", "http://127.0.0.1:9", "--tier", "research")
    assert done.returncode == 3, done.stderr
    assert "could not be reached" in done.stderr


def test_our_own_backend_says_what_it_serves():
    with serving("--condenser", "echo") as server:
        server.ready()
        done = loadtest(
            "--url", server.url, "--tier", "inference_0", "--duration", "2", "--rate", "5",
            "--warm_up", "0", "--json", "-",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"] == "PASS"
    assert found["condenser"] == "echo"
    assert found["hidden_size"] > 0
    assert found["api_path"] == server.path
