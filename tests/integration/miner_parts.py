"""A miner's surroundings for its tests: keys, rosters, a tier, backends without a model."""

import json
import math
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
from bittensor.sp_core import Keypair

from neural_condense_core.chain.base import Outcome, Peer, Roster
from neural_condense_core.constants import TierConfig
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import (
    JSON,
    JSON_BASE64,
    JSON_LIST,
    SAFETENSORS,
    encode,
    from_safetensors,
    reply_headers,
)
from neural_condense_core.wire.signing import nonce_of, sign_request, verify_answer

MINER = Keypair.create_from_uri("//Miner")
VALIDATOR = Keypair.create_from_uri("//Validator")
OTHER_VALIDATOR = Keypair.create_from_uri("//OtherValidator")
STRANGER = Keypair.create_from_uri("//Stranger")
PATH = "/v1/condense"
MODEL = "tiny"
HIDDEN = 16
TIER = TierConfig("my-tier", 0.5, 40, 2.0, 32, 400, target_model=MODEL)
FORMATS = {
    "list": JSON_LIST, "object": JSON, "base64": JSON_BASE64, "safetensors": SAFETENSORS,
}  # fmt: skip


def peer(uid, key, *, stake=100.0, permit=True, endpoint=None):
    return Peer(uid, key.ss58_address, f"cold{uid}", endpoint, stake, permit, 0.0, 0, 0)


def roster(*peers, block=7):
    found = peers or (
        peer(0, MINER, stake=0.0, permit=False),
        peer(1, VALIDATOR, stake=300.0),
        peer(2, OTHER_VALIDATOR, stake=100.0),
    )
    return Roster(52, block, 20, 0, "owner", found, time.time())


def condensed(context, n=None):
    n = n or max(1, math.ceil(len(context) / 16))
    embeds = np.random.default_rng(n).normal(size=(n, HIDDEN)).astype(np.float32)
    return CondensedTokens(embeds, MODEL, max(n, len(context.encode())))


def asked(context="a text", tier="my-tier", target_model=MODEL):
    fields = {"tier": tier, "target_model": target_model, "context": context}
    return json.dumps(fields).encode()


def signed(body, *, key=VALIDATOR, receiver=MINER, target=PATH, method="POST"):
    return sign_request(
        key, method=method, target=target, body=body, receiver=receiver.ss58_address
    )


def read_answer(answer, headers, *, key=VALIDATOR, peer_key=MINER, target=PATH):
    """Check a signed answer as a validator does and return the condensed tokens."""
    verify_answer(
        answer.headers,
        answer.content,
        target=target,
        nonce_ns=nonce_of(headers),
        self_hotkey=key.ss58_address,
        peer_hotkey=peer_key.ss58_address,
    )
    return from_safetensors(answer.content, Limits(10**7, TIER.max_condensed_tokens, HIDDEN))


class Backend:
    """A backend in the transport: what it answers is set by the test."""

    def __init__(self, shape="safetensors"):
        self.format = FORMATS[shape]
        self.requests = []
        self.answer = None
        self.transport = httpx.MockTransport(self.handle)

    async def handle(self, request):
        if request.method == "GET":
            return httpx.Response(404, json={})
        asked_for = json.loads(request.content)
        self.requests.append(asked_for)
        if self.answer is not None:
            return await self.answer(asked_for)
        tokens = condensed(asked_for["context"])
        headers = {"Content-Type": self.format.content_type}
        if self.format is SAFETENSORS:
            headers = reply_headers(tokens, self.format)
        return httpx.Response(200, content=encode(tokens, self.format), headers=headers)


class FakeChain:
    """A chain whose answers and failures a test sets."""

    def __init__(self, first=None):
        self.now = first or roster()
        self.failure = None
        self.published = []
        self.outcome = Outcome(True, "ok", "published")
        self.reads = 0
        self.is_closed = False

    async def block(self):
        return self.now.block

    async def roster(self):
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return self.now

    async def publish(self, ip, port):
        if self.failure is not None:
            raise self.failure
        self.published.append((ip, port))
        if self.outcome.ok:
            self.now = roster(peer(0, MINER, endpoint=f"{ip}:{port}"), peer(1, VALIDATOR))
        return self.outcome

    async def close(self):
        self.is_closed = True


class LoopbackBackend:
    """A backend on loopback that speaks the specification and nothing more."""

    def __init__(self, port=0, *, target=MODEL, hidden=HIDDEN, delay_s=0.0):
        outer = self
        self.target, self.hidden, self.delay_s = target, hidden, delay_s
        self.contexts = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.reply(404, {"detail": "not found"})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.contexts.append(body["context"])
                time.sleep(outer.delay_s)
                n = min(max(1, len(body["context"]) // 16), 32)
                rows = np.random.default_rng(n).normal(size=(n, outer.hidden)).tolist()
                self.reply(200, {"compressed_tokens": rows, "target_model": outer.target})

            def reply(self, status, payload):
                body = json.dumps(payload).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def write_wallet(folder, name="my_wallet", hotkey="my_key"):
    """Make a wallet on disk with a hotkey and no coldkey; return the hotkey's address."""
    from bittensor import Wallet

    wallet = Wallet(name, hotkey, path=os.fspath(folder))
    wallet.create_new_hotkey(suppress=True)
    return wallet.hotkey.ss58_address
