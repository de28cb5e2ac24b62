"""The scoring service and the bench by their command lines."""

import asyncio
import json
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from backend_process import ROOT, WAIT_S, run, serving

from neural_condense_core.client.scoring import ScoringClient
from neural_condense_core.llm.hf import load_target
from neural_condense_core.scoring.challenges import make_challenges
from neural_condense_core.scoring.texts import Generated
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.scoring import ReplyRef, ScoreRequest

LAUNCHER = ("services/validator_backend/scoring/app.py",)
BENCH = ("-m", "neural_condense_core.cli", "bench")


@pytest.fixture
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.usefixtures("_at_the_root")
def test_the_specification_s_line_serves_scores_and_stops(tiny_llama):
    target = load_target(tiny_llama, "cpu", "float32")
    challenges = make_challenges(1, 2, 260, Generated())
    replies = tuple(
        ReplyRef(id=f"r{i}", miner="m", challenge=challenge.id)
        for i, challenge in enumerate(challenges)
    )
    tensors = {
        reply.id: CondensedTokens(
            target.embed(target.tokenize(challenge.context)), tiny_llama, len(challenge.context)
        )
        for reply, challenge in zip(replies, challenges, strict=True)
    }
    request = ScoreRequest(
        target_model=tiny_llama, seed=1, challenges=tuple(challenges), replies=replies
    )
    arguments = ("--target_model", tiny_llama, "--dtype", "float32", "--baselines", "none")
    with serving(*arguments, command=LAUNCHER) as server:
        server.bound()

        async def go():
            async with ScoringClient(server.url, timeout_s=WAIT_S) as client:
                return await client.score(request, tensors)

        answer = asyncio.run(go())
        assert answer.miners["m"].replies["r0"].code == "ok"
        assert np.isfinite(answer.seconds)
        assert challenges[0].context[:40] not in server.log
        assert server.stop(signal.SIGTERM) == 0
    assert "ready after" in server.log
    assert "POST /v1/score: 200, 2 replies" in server.log


@pytest.mark.usefixtures("_at_the_root")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--host", "0.0.0.0"), "--token_file"),
        (("--baselines", "tuncate-head"), "Did you mean 'truncate-head'"),
        (("--models", "x"), "No such option"),
    ],
)
def test_a_command_line_that_cannot_be_exits_2(arguments, said):
    done = run(*arguments, command=LAUNCHER, cwd=ROOT)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("_at_the_root")
def test_a_model_that_is_not_there_exits_3(tmp_path):
    done = run("--port", "0", "--target_model", str(tmp_path), command=LAUNCHER, cwd=ROOT)
    assert done.returncode == 3
    assert "cannot load target model" in done.stderr


@pytest.fixture
def backend(tiny_llama, tmp_path):
    """A backend that answers with noise of the right shape."""
    port = free_port()
    process = subprocess.Popen(
        [
            sys.executable, str(ROOT / "tests" / "e2e" / "fake_backend.py"), str(port),
            "--pids", str(tmp_path / "pids"), "--target", tiny_llama,
        ],
    )  # fmt: skip
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait(WAIT_S)
    for line in (tmp_path / "pids").read_text().split()[1:]:
        subprocess.run(["kill", line], check=False)


def test_bench_tells_noise_that_it_falls_short(tiny_llama, backend, tmp_path):
    tiers = tmp_path / "tiers.toml"
    tiers.write_text(
        "[tiers.small]\nincentive_share = 0.0\nrequests_per_epoch = 1\ntimeout_s = 60\n"
        "max_condensed_tokens = 196\nmax_context_chars = 300\n"
    )
    done = run(
        "--url", backend, "--tier", "small", "--tiers", str(tiers), "--target_model", tiny_llama,
        "--contexts", "2", "--seed", "3", "--quick", "--dtype", "float32", "--json", "-",
        "--load_seconds", "1", command=BENCH,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["passed"] is False
    assert found["faults"]
    # Far too quiet to be anybody's embeddings.
    assert {reply["code"] for reply in found["replies"]} <= {"ok", "norm"}
    assert {each["kind"] for each in found["ranking"]} == {"backend", "baseline"}
    assert 1 <= found["rank"] <= len(found["ranking"])
    assert 0.0 <= found["score"] <= 1.0
    assert "FALLS SHORT" in done.stderr
    assert found["load"]["verdict"] == "PASS"
    assert found["load"]["n_scheduled"] == 1


def test_bench_without_a_backend_exits_3(tiny_llama):
    done = run(
        "--url", f"http://127.0.0.1:{free_port()}", "--tier", "research",
        "--target_model", tiny_llama, command=BENCH,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "could not be reached" in done.stderr


def test_bench_knows_the_tiers():
    done = run("--url", "http://127.0.0.1:1", "--tier", "reserch", command=BENCH)
    assert done.returncode == 2
    assert "Did you mean 'research'" in done.stderr
