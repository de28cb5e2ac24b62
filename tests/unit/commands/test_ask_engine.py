"""``condense ask --engine``: who reads, over a real socket; a wrong engine is known at once."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from neural_condense_core.cli import app
from neural_condense_core.llm.hf import load_target

sys.path.insert(0, str(Path(__file__).parents[2] / "engines"))
from fake_vllm import FakeVLLM

RUNNER = CliRunner()


@pytest.fixture
def note(tmp_path: Path) -> str:
    path = tmp_path / "note.txt"
    path.write_text("The hare ran past the tortoise and slept under a tree until noon.")
    return str(path)


@pytest.fixture
def fake(tiny_llama: str) -> FakeVLLM:
    return FakeVLLM(load_target(tiny_llama, dtype="auto"))


@pytest.fixture
def url(fake: FakeVLLM) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length", 0))
            request = httpx.Request(
                self.command, f"http://fake{self.path}", content=self.rfile.read(length)
            )
            answer = fake.answer(request)
            self.send_response(answer.status_code)
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def ask(note: str, target: str, engine: str) -> Any:
    return RUNNER.invoke(app, [
        "ask", note, "Who ran?", "--condenser", "truncate-head", "--target", target,
        "--ratio", "2", "--max_new_tokens", "6", "--engine", engine, "--json", "-",
    ])  # fmt: skip


def test_vllm_says_what_transformers_says(
    note: str, tiny_llama: str, url: str, fake: FakeVLLM
) -> None:
    here = ask(note, tiny_llama, "hf")
    there = ask(note, tiny_llama, f"vllm={url}")
    assert (here.exit_code, there.exit_code) == (0, 0), there.output
    ours, theirs = json.loads(here.stdout), json.loads(there.stdout)
    assert theirs["engine"] == f"vllm={url}"
    assert theirs["answers"][0]["answer"] == ours["answers"][0]["answer"]
    assert len(fake.bodies) == 1
    assert "prompt" not in fake.bodies[0]


@pytest.mark.parametrize(
    ("engine", "code", "says"),
    [
        ("lama-cpp", 2, "Did you mean"),
        ("vllm", 2, "server's address"),
        ("vllm=http://127.0.0.1:1", 3, "cannot be reached"),
    ],
)
def test_an_engine_that_cannot_be_opened_is_one_clear_error(
    note: str, tiny_llama: str, engine: str, code: int, says: str
) -> None:
    result = ask(note, tiny_llama, engine)
    error = result.exception
    assert getattr(error, "exit_code", result.exit_code) == code or result.exit_code == code
    assert says in f"{error} {result.output}"
