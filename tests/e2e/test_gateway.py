"""The gateway by its command line, asked by OpenAI's own client, by ours, and by curl."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from backend_process import ROOT, Server
from organic_gate import Gate
from subnet_fakes import MODEL, OK, matrix

from neural_condense_core.client.gateway import GatewayClient
from neural_condense_core.condensers.echo import read_echo
from neural_condense_core.errors import RequestError

COMMAND = ("-m", "neural_condense_core.cli", "gateway")
SERVE_COMMAND = ("-m", "neural_condense_core.cli", "serve")
FLAGS = (
    "--engine", "gateway_engine:open_toy", "--target", "toy", "--condenser", "echo",
    "--threshold", "64", "--floor", "0", "--max_new_tokens", "400",
)  # fmt: skip
TEXT = "The harbour was quiet when they came ashore. " * 20


@pytest.fixture(scope="module")
def gateway():
    server = Server(*FLAGS, command=COMMAND).ready()
    yield server
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0, server.log


@pytest.fixture(scope="module")
def client(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def chat(client, content, **more):
    given = {"temperature": 0, "max_tokens": 300, **more}
    return client.chat.completions.create(
        model="toy", messages=[{"role": "user", "content": content}], **given
    )


def test_openais_client_chats_streams_and_completes(client):
    whole = chat(client, "why?")
    assert whole.choices[0].message.content == "<user>why?<assistant>"
    assert whole.usage.completion_tokens == len("<user>why?<assistant>")
    assert whole.condense["mode"] == "auto"
    stream = chat(client, "why?", stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    said = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert [each.choices[0].finish_reason for each in chunks if each.choices][-1] == "stop"
    plain = client.completions.create(model="toy", prompt="once", temperature=0, max_tokens=2)
    assert (plain.choices[0].text, plain.choices[0].finish_reason) == ("on", "length")
    assert [each.id for each in client.models.list()] == ["toy"]
    assert client.models.retrieve("toy").id == "toy"


def test_long_parts_are_condensed_and_found_again(client):
    options = {"condense": {"mode": "always"}}
    first = chat(client, f"{TEXT}\n\nwhy?", extra_body=options)
    (part,) = first.condense["parts"]
    assert part["n_condensed_tokens"] == -(-part["n_context_tokens"] // 4)
    assert first.choices[0].message.content.count("#") == part["n_condensed_tokens"]
    assert (
        first.usage.condense_tokens_saved == part["n_context_tokens"] - part["n_condensed_tokens"]
    )
    raw = client.chat.completions.with_raw_response.create(
        model="toy", messages=[{"role": "user", "content": f"{TEXT}\n\nwhy?"}],
        max_tokens=300, extra_body=options,
    )  # fmt: skip
    assert raw.headers["x-condense-tokens-saved"] == str(first.condense["tokens_saved"])
    assert raw.parse().condense["parts"][0]["from_store"] is True


def test_auto_keeps_a_long_chat_inside_the_window(client):
    messages = []
    for number in range(30):
        messages.append({"role": "user", "content": f"turn {number}: " + TEXT[:300]})
        messages.append({"role": "assistant", "content": "noted"})
    messages.append({"role": "user", "content": "why?"})
    found = client.chat.completions.create(model="toy", messages=messages, max_tokens=100)
    assert found.usage.prompt_tokens + 100 <= 4_000
    assert found.condense["tokens_saved"] > 4_000
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model="toy", messages=messages, extra_body={"condense": {"mode": "never"}}
        )
    assert caught.value.code == "context_length_exceeded"


def test_errors_come_as_openais_classes(client, gateway):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, "x", n=2)
    assert caught.value.request_id
    with pytest.raises(openai.BadRequestError):
        chat(client, "x", temperature=9)
    with pytest.raises(openai.InternalServerError):
        chat(client, "RAISE the vault")
    assert "vault" not in gateway.log


def test_our_client_keeps_and_an_id_answers(gateway, client):
    with GatewayClient(gateway.url) as ours:
        info = ours.condense(TEXT, ratio=8)
        assert info.n_condensed_tokens == -(-len(TEXT) // 8)
        told = info.model_copy(update={"from_store": None})
        assert ours.context(info.id) == told
        assert told in ours.contexts()
        tokens = ours.tokens(info.id)
        assert read_echo(tokens).decode() == TEXT
        assert tokens.embeds.dtype == np.float32
        content = [
            {"type": "condensed_context", "id": info.id},
            {"type": "text", "text": " why?"},
        ]
        answer = chat(client, content).choices[0].message.content
        assert answer == f"<user>{'#' * info.n_condensed_tokens} why?<assistant>"
        ours.delete(info.id)
        with pytest.raises(RequestError, match="404"):
            ours.context(info.id)
        with pytest.raises(openai.NotFoundError):
            chat(client, content)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(gateway):
    body = {"model": "toy", "messages": [{"role": "user", "content": "why?"}], "stream": True}
    done = subprocess.run(
        ["curl", "-sN", f"{gateway.url}/v1/chat/completions", "-H",
         "Content-Type: application/json", "-d", json.dumps(body)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.endswith("data: [DONE]\n\n")


def test_a_reader_that_crashes_costs_its_request_only(gateway, client):
    with pytest.raises(openai.InternalServerError) as caught:
        chat(client, "CRASH")
    assert caught.value.status_code == 503
    gateway.ready()
    assert chat(client, "why?").choices[0].message.content == "<user>why?<assistant>"


def test_keys_are_made_by_the_command_line_and_asked_for(tmp_path):
    keys = tmp_path / "keys.sqlite"
    made = subprocess.run(
        [sys.executable, "-m", "neural_condense_core.cli", "keys", "add", "ann", "--quota", "1",
         "--file", str(keys), "--json", "-"],
        capture_output=True, text=True, timeout=60, check=True, cwd=ROOT,
    )  # fmt: skip
    key = json.loads(made.stdout)["key"]
    server = Server(*FLAGS, "--keys", str(keys), command=COMMAND).ready()
    try:
        url = f"{server.url}/v1"
        with (
            openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as wrong,
            pytest.raises(openai.AuthenticationError),
        ):
            chat(wrong, "x")
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as right:
            assert chat(right, "why?").choices
            with pytest.raises(openai.RateLimitError) as caught:
                chat(right, "why?")
        assert int(caught.value.response.headers["retry-after"]) > 0
    finally:
        server.process.terminate()
        server.process.wait(30)


def test_other_addresses_need_keys_by_themselves(tmp_path):
    server = Server(
        *FLAGS, "--host", "0.0.0.0", command=COMMAND,
        environment={"XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path)},
    ).bound()  # fmt: skip
    try:
        assert re.search(r"keys: .*gateway/keys\.sqlite", server.log)
    finally:
        server.process.terminate()
        assert server.process.wait(30) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--target", "missing"), "no such model"),
        (("--mode", "much"), "--mode must be one of"),
        (("--engine", "vllm"), "needs the server's address"),
        (("--condense_with", "backend"), "--condense_with must be"),
        (("--calibration", "nowhere.json"), "calibration"),
    ],
)
def test_what_cannot_work_ends_with_2(flags, said):
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/integration")]),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, *COMMAND, "--port", "0", *FLAGS, *flags],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert said in " ".join(done.stderr.split())


def test_nothing_is_left_when_the_gateway_is_killed():
    server = Server(*FLAGS, command=COMMAND).ready()
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) >= 2
    server.process.kill()
    server.process.wait(30)
    server.until(
        lambda: not any(Path(f"/proc/{child}").exists() for child in children), "the children"
    )


def test_a_backend_condenses_for_the_gateway():
    backend = Server("--condenser", "echo", "--target_model", "toy", command=SERVE_COMMAND).ready()
    server = Server(*FLAGS, "--condense_with", f"backend={backend.url}", command=COMMAND).ready()
    try:
        with GatewayClient(server.url) as ours:
            info = ours.condense(TEXT)
            assert read_echo(ours.tokens(info.id)).decode() == TEXT
            assert info.condenser == "echo"
    finally:
        for each in (server, backend):
            each.process.terminate()
            assert each.process.wait(60) == 0


def test_a_validators_miners_condense_for_the_gateway(tmp_path):
    gate = Gate(tmp_path)
    gate.dendrite.behaviours["m0"] = lambda context, tier: (
        OK, OK, 0.1, matrix(0.9, hidden=64, model=tier.target_model)
    )  # fmt: skip
    flags = (
        *FLAGS, "--target", MODEL, "--model_name", "toy", "--condense_with", f"validator={gate.url}"
    )  # fmt: skip
    server = Server(
        *flags, command=COMMAND, environment={"CONDENSE_VALIDATOR_KEY": gate.key}
    ).ready()
    refused = Server(
        *flags, command=COMMAND, environment={"CONDENSE_VALIDATOR_KEY": "wrong"}
    ).ready()
    try:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            # Longer than a tier takes at once.
            text = " ".join(f"The harbour had {i} boats." for i in range(70))
            found = chat(client, f"{text}\n\nwhy?", extra_body={"condense": {"mode": "always"}})
            parts = found.condense["parts"]
            asked = [context for _, context in gate.dendrite.asked]
            assert len(parts) == len(asked) >= 2
            whole = f"{text}\n\n"
            assert "".join(sorted(asked, key=whole.find)) == whole
            assert max(map(len, asked)) <= 1_000
            assert found.choices[0].message.content.count("#") == 2 * len(parts)
            with GatewayClient(server.url) as ours:
                tokens = ours.tokens(parts[0]["id"])
                assert tokens.target_model == "toy"
                np.testing.assert_array_equal(tokens.embeds, np.full((2, 64), 0.9, np.float32))
                with pytest.raises(RequestError, match="400"):
                    ours.condense("x" * 1_001)
        # A key of the gateway's own that fails is no fault of who asks it.
        with (
            openai.OpenAI(base_url=f"{refused.url}/v1", api_key="none", max_retries=0) as client,
            pytest.raises(openai.InternalServerError) as caught,
        ):
            chat(client, f"{TEXT}\n\nwhy?", extra_body={"condense": {"mode": "always"}})
        assert caught.value.status_code == 502
        assert "harbour" not in server.log + refused.log
    finally:
        for each in (server, refused):
            each.process.terminate()
            assert each.process.wait(60) == 0
        gate.close()


def test_a_client_that_hangs_up_ends_its_stream(gateway):
    body = {
        "model": "toy", "messages": [{"role": "user", "content": "SLOW " + "x" * 300}],
        "stream": True, "max_tokens": 300,
    }  # fmt: skip
    url = f"{gateway.url}/v1/chat/completions"
    with httpx.Client(trust_env=False) as http, http.stream("POST", url, json=body) as response:
        assert response.status_code == 200
        lines = response.iter_lines()  # kept: the stream is closed with it
        next(lines)
        assert in_hand(gateway) == 1
    gateway.until(lambda: in_hand(gateway) == 0, "the stream's end")
    # The reader is free again too: the whole answer would have taken 15 s more.
    begun_s = time.monotonic()
    with httpx.Client(trust_env=False, timeout=60) as http:
        messages = [{"role": "user", "content": "why?"}]
        assert http.post(url, json={"model": "toy", "messages": messages}).status_code == 200
    assert time.monotonic() - begun_s < 10


def in_hand(gateway):
    (line,) = [
        line
        for line in gateway.get("/metrics").text.splitlines()
        if line.startswith("condense_gateway_in_hand ")
    ]
    return float(line.split()[1])
