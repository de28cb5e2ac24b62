"""``condense models pull OWNER/NAME@REV`` against a hub on loopback, by its real command line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from safetensors.numpy import save

COMMIT = "d" * 40
CONFIG = {
    "schema": 1, "name": "theirs", "method": "pooled", "target_model": "some-model",
    "hidden_size": 8, "ratios": [4], "config": {}, "licence": "MIT", "measured": {},
}  # fmt: skip


class Hub:
    """What a hub answers, and what it was asked."""

    def __init__(self):
        self.bodies = {
            "condenser.safetensors": save({"a": np.arange(4, dtype=np.float32)}),
            "config.json": json.dumps(CONFIG).encode(),
            "README.md": b"# A card\n",
            "training_args.bin": b"a pickle",
            "modeling_theirs.py": b"print('never run')",
        }
        self.stated = dict(self.bodies)
        self.paths = []

    def listing(self):
        siblings = []
        for name, body in self.stated.items():
            sha1 = hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False)
            file = {"rfilename": name, "size": len(body), "blobId": sha1.hexdigest()}
            if name.endswith(".safetensors"):
                digest = hashlib.sha256(body).hexdigest()
                file["lfs"] = {"size": len(body), "sha256": digest, "pointerSize": 100}
            siblings.append(file)
        return {"id": "owner/theirs", "modelId": "owner/theirs", "sha": COMMIT,
                "siblings": siblings, "tags": [], "private": False}  # fmt: skip


def handler(hub):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.answer(with_body=False)

        def do_GET(self):
            self.answer(with_body=True)

        def answer(self, *, with_body):
            path = self.path.partition("?")[0]
            hub.paths.append(path)
            prefix = f"/owner/theirs/resolve/{COMMIT}/"
            if path == "/api/models/owner/theirs/revision/v1":
                body = json.dumps(hub.listing()).encode()
            elif path.startswith(prefix) and path[len(prefix) :] in hub.bodies:
                body = hub.bodies[path[len(prefix) :]]
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    return Handler


@pytest.fixture
def hub():
    answers = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(answers))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    answers.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield answers
    server.shutdown()
    server.server_close()
    thread.join(5)


def condense(hub, cache, *args):
    settings = {
        "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        "CONDENSE_CACHE": str(cache), "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "neural_condense_core.cli", "models", *args],
        env={**os.environ, **settings}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_what_a_hub_holds_is_pulled_and_removed(hub, tmp_path):
    done = condense(hub, tmp_path, "pull", "owner/theirs@v1", "--json", "-")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["name"], result["revision"]) == ("theirs", COMMIT)
    assert set(result["skipped"]) == {"training_args.bin", "modeling_theirs.py"}
    fetched = [path.rpartition("/")[2] for path in hub.paths if "/resolve/" in path]
    assert set(fetched) == {"condenser.safetensors", "config.json", "README.md"}
    folder = tmp_path / "condensers" / "theirs"
    assert (folder / "condenser.safetensors").read_bytes() == hub.bodies["condenser.safetensors"]
    assert {path.name for path in folder.iterdir()} == {*fetched, "pulled.json"}

    assert condense(hub, tmp_path, "rm", "theirs").returncode == 0
    assert not folder.exists()


def test_other_bytes_than_the_hub_stated_install_nothing(hub, tmp_path):
    body = bytearray(hub.bodies["condenser.safetensors"])
    body[-1] ^= 1
    hub.bodies["condenser.safetensors"] = bytes(body)
    done = condense(hub, tmp_path, "pull", "owner/theirs@v1")
    assert done.returncode == 3
    assert "not the file that was listed" in done.stderr
    assert list((tmp_path / "condensers").iterdir()) == []


def test_a_repository_that_is_not_there_is_an_error_of_ours(hub, tmp_path):
    done = condense(hub, tmp_path, "pull", "owner/nothing@v1")
    assert done.returncode == 3
    assert "cannot list 'owner/nothing'" in done.stderr
    assert "Traceback" not in done.stderr
