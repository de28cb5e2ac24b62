"""Into the playground and out of it: files, the matrix, code that runs, and who may ask."""

import base64
import io
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from backend_process import ROOT
from playground_page import ASKED, TEXT, answer, ask, condense, said, serve

from neural_condense_core.client.gateway import GatewayClient
from neural_condense_core.condensers.echo import read_echo
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import from_safetensors


def pdf(text):
    stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R"
        b"/Resources<</Font<</F1<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
    ]  # fmt: skip
    body, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj%s endobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 5\n0000000000 65535 f \n"
    end = b"trailer<</Size 5/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % len(body)
    return body + head + table + end


@pytest.mark.parametrize(
    ("name", "body", "found"),
    [
        ("a.txt", "A café.".encode(), "A café."),
        ("b.md", "# Caf\xe9".encode("cp1252"), "# Café"),
        (
            "c.html",
            b"<head><title>no</title></head><h1>One</h1><p>two<script>3</script>",
            "One\ntwo",
        ),
        ("d.pdf", pdf("Read from a PDF"), "Read from a PDF"),
    ],
)
def test_a_file_is_chosen_or_dropped(play, name, body, found):
    page = play()
    page.locator("#file").set_input_files({"name": name, "mimeType": "", "buffer": body})
    said(page, "done")
    assert page.get_by_label("Paste a text").input_value() == found
    assert f"from {name}" in page.locator("#text-size").inner_text()
    page.get_by_label("Paste a text").fill("")
    drop = page.evaluate_handle(
        """([name, data]) => {
          const found = new DataTransfer();
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          found.items.add(new File([bytes], name));
          return found;
        }""",
        [name, base64.b64encode(body).decode()],
    )
    page.dispatch_event("#text", "dragover", {"dataTransfer": drop})
    assert "over" in page.locator("#drop").get_attribute("class")
    page.dispatch_event("#text", "drop", {"dataTransfer": drop})
    page.locator("#text-size", has_text=name).wait_for()
    assert page.get_by_label("Paste a text").input_value() == found
    assert page.locator("#drop.over").count() == 0


def test_files_without_text_are_refused_in_words(play):
    page = play(allow=("400",))
    for name, body, fault in (
        ("a.bin", b"\x00\x01", "This is no text"),
        ("b.pdf", b"%PDF-1.4 nothing", "the file cannot be read"),
        ("c.html", b"<p> </p>", "no text is in this page"),
        ("d.pdf", b"0" * 8_000_001, "at most 8.00 MB are read"),
    ):
        page.locator("#file").set_input_files({"name": name, "mimeType": "", "buffer": body})
        page.locator("#condense-fault", has_text=fault).wait_for()
    assert page.get_by_label("Paste a text").input_value() == ""


def test_the_matrix_is_downloaded(play, toy_gateway):
    page = play()
    condense(page)
    with page.expect_download() as caught:
        page.get_by_role("button", name="Download as safetensors").click()
    path = Path(caught.value.path())
    kept = page.locator("#kept-as").inner_text()
    assert caught.value.suggested_filename == f"{kept}.safetensors"
    tokens = from_safetensors(path.read_bytes(), Limits(1 << 24, 1 << 16))
    assert read_echo(tokens).decode() == TEXT
    with GatewayClient(toy_gateway.url) as client:
        assert np.array_equal(client.tokens(kept).embeds, tokens.embeds)


def copied(page, kind):
    page.get_by_label(kind, exact=True).check()
    page.get_by_role("button", name="Copy").click()
    said(page, "copied")
    return page.evaluate("navigator.clipboard.readText()")


def ran(*command):
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


class _VLLM(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        message = {"role": "assistant", "content": "seen"}
        body = {
            "id": "x", "object": "chat.completion", "created": 0, "model": "toy",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def vllm():
    server = HTTPServer(("127.0.0.1", 0), _VLLM)
    server.bodies = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_copied_code_runs_and_gives_the_pages_answer(play, vllm, toy_gateway):
    page = play()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    condense(page)
    question = """what's "it"? \\ 'é'"""
    ask(page, question)
    said(page, "done")
    shown = answer(page, "condensed")
    curl = copied(page, "curl")
    assert json.loads(ran("bash", "-c", curl))["choices"][0]["message"]["content"] == shown
    assert ran(sys.executable, "-c", copied(page, "Python")) == shown + "\n"
    code = copied(page, "vLLM")
    there = f"http://127.0.0.1:{vllm.server_port}"
    assert ran(sys.executable, "-c", code.replace("http://127.0.0.1:8000", there)) == "seen\n"
    ((message,),) = [body["messages"] for body in vllm.bodies]
    before, part, after = message["content"]
    assert (before["text"], after["text"]) == ("Text:\n", f"\n\n{ASKED[:-4]}{question}")
    assert part["type"] == "prompt_embeds"
    import torch

    rows = torch.load(io.BytesIO(base64.b64decode(part["data"])), weights_only=True)
    with GatewayClient(toy_gateway.url) as client:
        kept = client.tokens(page.locator("#kept-as").inner_text())
    assert np.array_equal(rows.numpy(), kept.embeds)


def test_a_key_is_asked_for_used_and_forgotten(new_page, tmp_path):
    keys = str(tmp_path / "keys.sqlite")
    made = ran(sys.executable, "-m", "neural_condense_core.cli", "keys", "add", "ann",
               "--file", keys, "--json", "-")  # fmt: skip
    key = json.loads(made)["key"]
    server = serve("--keys", keys)
    try:
        page = new_page(allow=("401",))
        page.goto(server.url + "/")
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Use this key").click()
        page.get_by_text("This key is not known here.").wait_for()
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Use this key").click()
        said(page, "ready")
        assert not page.get_by_label("API key").is_visible()
        condense(page)
        ask(page)
        said(page, "done")
        assert answer(page, "none") == f"<user>{ASKED}<assistant>"
        for kind in ("curl", "Python", "vLLM"):
            page.get_by_label(kind, exact=True).check()
            code = page.locator("#snippet").inner_text()
            assert "CONDENSE_KEY" in code
            assert key not in code
        stored = "[localStorage.length, sessionStorage.length, document.cookie]"
        assert page.evaluate(stored) == [0, 0, ""]
        page.reload()
        page.get_by_label("API key").wait_for()
    finally:
        server.process.terminate()
        server.process.wait(30)
