"""A subnet without models: keys, a chain in memory, miners that echo, a judge that reads a number.

A miner's quality is the number in its matrix, and the judge's content recovery is that number. So
what a test expects can be computed by hand. ``python subnet_fakes.py judge|miners ...`` runs either
as a process.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
from bittensor.sp_core import Keypair
from fastapi import FastAPI, Request
from fastapi.responses import Response

from neural_condense_core.chain.base import Outcome, Peer, Roster
from neural_condense_core.constants import TierConfig
from neural_condense_core.errors import ChainUnavailable
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.validator.replies import (
    MALFORMED,
    OK,
    REFUSED,
    TIMEOUT,
    UNREACHABLE,
    Reply,
)
from neural_condense_core.wire.codec import to_safetensors
from neural_condense_core.wire.listening import bind, make_server
from neural_condense_core.wire.scoring import (
    BaselineScore,
    Challenge,
    ChallengeItem,
    MinerScore,
    ReplyScore,
    ScoreAnswer,
    ScoreLimits,
    ScoringInfo,
    decode_score_request,
)
from neural_condense_core.wire.signing import sign_answer, verify_request

MODEL = "smollm2-135m-instruct"
HIDDEN = 8
TIER = TierConfig("research", 0.5, 100, 2.0, 16, 1_000, target_model=MODEL)
FAST = TierConfig("inference_0", 0.3, 1_000, 1.0, 16, 1_000, 0.4, target_model=MODEL)
TIERS = {TIER.name: TIER, FAST.name: FAST}


def pair(name):
    return Keypair.create_from_uri(f"//{name}")


def peer(uid, hotkey=None, endpoint="127.0.0.1:9", **more):
    facts = {
        "stake": 0.0, "permit": False, "incentive": 0.0, "last_update": 0, "registered_at": 1,
    }  # fmt: skip
    name = hotkey if hotkey is not None else f"hotkey-{uid}"
    return Peer(uid, name, f"coldkey-{uid}", endpoint, **(facts | more))


def roster(*peers, block=100, owner="owner", tempo=20):
    return Roster(52, block, tempo, block - 5, owner, tuple(peers), time.time())


def matrix(quality, n=2, hidden=HIDDEN, model=MODEL):
    embeds = np.full((n, hidden), quality, dtype=np.float32)
    return CondensedTokens(embeds, model, 100)


class FakeChain:
    """A chain in memory; ``hangs`` and ``fails`` make its calls do so."""

    def __init__(self, found):
        self.found = found
        self.held = {}
        self.sent = []
        self.hangs = False
        self.fails = 0
        self.refuses = None
        self.is_forgetful = False

    async def _answer(self):
        if self.hangs:
            await asyncio.sleep(3600)
        if self.fails:
            self.fails -= 1
            raise ChainUnavailable("the chain is away")

    async def block(self):
        await self._answer()
        return self.found.block

    async def roster(self):
        await self._answer()
        return self.found

    async def submit_weights(self, weights, version_key):
        await self._answer()
        self.sent.append(dict(weights))
        if self.refuses:
            return Outcome(False, self.refuses, "no")
        if not self.is_forgetful:
            top = max(weights.values())
            rounded = {uid: round(65535 * w / top) for uid, w in weights.items()}
            total = sum(rounded.values())
            self.held = {uid: w / total for uid, w in rounded.items() if w}
        return Outcome(True, "ok", "in", self.found.block)

    async def weights(self):
        await self._answer()
        return {p.uid: self.held for p in self.found.peers if p.permit}

    async def close(self):
        pass


@dataclass(frozen=True)
class FakeDraft:
    context: str


class FakeExaminer:
    """Contexts that are numbered, and one item each."""

    def contexts(self, seed, n, max_chars):
        return [FakeDraft(f"text {seed} {i}"[:max_chars]) for i in range(n)]

    def draft_of(self, context):
        return FakeDraft(context)

    def ask(self, drafts, seed):
        item = ChallengeItem(task="reconstruction", target="target")
        return [
            Challenge(id=str(i), context=d.context, source="s", document=f"d{i}", items=(item,))
            for i, d in enumerate(drafts)
        ]


@dataclass
class FakeDendrite:
    """Answers by ``behaviours``: hotkey -> function of (context, tier) -> (status, code, ...)."""

    behaviours: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)

    async def ask(self, peer, tier, context, *, timeout_s=None):
        self.asked.append((peer.hotkey, context))
        found = self.behaviours[peer.hotkey](context, tier)
        if asyncio.iscoroutine(found):
            found = await found
        status, code, elapsed_s, tokens = found
        return Reply(peer.uid, peer.hotkey, status, code, elapsed_s, tokens)


def good(quality, elapsed_s=0.1, model=MODEL):
    return lambda context, tier: (OK, OK, elapsed_s, matrix(quality, model=tier.target_model))


def failing(status, code, elapsed_s=None):
    return lambda context, tier: (status, code, elapsed_s, None)


DEAD = failing(UNREACHABLE, "connect", 0.01)
LATE = failing(TIMEOUT, TIMEOUT, 2.0)
REFUSING = failing(REFUSED, "forbidden", 0.01)
BROKEN = failing(MALFORMED, "not_finite", 0.1)


def score_of(request, values, recovery=None):
    """Return the answer of a judge whose C is the mean of the numbers in a miner's matrices."""
    miners = {}
    for name in {ref.miner for ref in request.replies}:
        mine = [ref for ref in request.replies if ref.miner == name]
        found = [values[ref.id] for ref in mine]
        c = float(np.mean(found)) if len(found) > 1 else None
        r = c if recovery is None else recovery(name, c)
        miners[name] = MinerScore(
            content_recovery=c,
            recovery=r,
            best_baseline=BaselineScore(name="truncate-head", content_recovery=0.1),
            n_items=len(found),
            replies={ref.id: ReplyScore(code="ok", n_condensed=2) for ref in mine},
        )
    return ScoreAnswer(target_model=request.target_model, seconds=0.0, miners=miners)


class FakeJudge:
    """Scores in this process; ``error`` is raised instead."""

    def __init__(self, error=None, recovery=None):
        self.error = error
        self.recovery = recovery
        self.requests = []

    async def score(self, request, tensors):
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        values = {name: float(one.embeds[0, 0]) for name, one in tensors.items()}
        return score_of(request, values, self.recovery)

    async def info(self):
        return judge_info()


def judge_info(model=MODEL, hidden=HIDDEN):
    return ScoringInfo(
        target_model=model, hidden_size=hidden, max_condensed_tokens=1024,
        max_body_bytes=64_000_000, max_replies=1024, max_challenges=256,
    )  # fmt: skip


class Known:
    """A replay store in memory."""

    retention = 3600.0

    def __init__(self):
        self.seen = set()

    def check_and_store(self, hotkey, nonce_ns):
        is_new = (hotkey, nonce_ns) not in self.seen
        self.seen.add((hotkey, nonce_ns))
        return is_new


async def respond(send, status, body, headers):
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class EchoMiners:
    """One ASGI application that is many miners, told apart by the receiver's hotkey.

    ``specs``: hotkey -> {"tier", "quality", "delay_s"}; checks signatures as a miner does.
    """

    def __init__(self, pairs, specs, model=MODEL, hidden=HIDDEN):
        self.pairs = pairs
        self.specs = specs
        self.model = model
        self.hidden = hidden
        self.store = Known()
        self.n_served = {}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"] == "/v1/metadata":
            await self._metadata(send)
        else:
            await self._condense(headers, body, send)

    async def _metadata(self, send):
        spec = next(iter(self.specs.values()))
        said = json.dumps({"tier": spec["tier"], "target_model": self.model}).encode()
        await respond(send, 200, said, {"content-type": "application/json"})

    async def _condense(self, headers, body, send):
        hotkey = headers["x-bittensor-receiver"]
        mine, spec = self.pairs[hotkey], self.specs[hotkey]
        caller = verify_request(
            headers, body, method="POST", target="/v1/condense", self_hotkey=hotkey,
            store=self.store,
        )  # fmt: skip
        self.n_served[hotkey] = self.n_served.get(hotkey, 0) + 1
        await asyncio.sleep(spec.get("delay_s", 0.0))
        model = json.loads(body)["target_model"]
        answer = to_safetensors(matrix(spec["quality"], hidden=self.hidden, model=model))
        signed = sign_answer(
            mine, target="/v1/condense", nonce_ns=caller.nonce_ns, body=answer,
            receiver=caller.hotkey,
        )  # fmt: skip
        await respond(send, 200, answer, {**signed, "content-type": "application/vnd.safetensors"})


def judge_app(model=MODEL, hidden=HIDDEN):
    """Return the judge as an ASGI application."""
    app = FastAPI()

    @app.get("/info")
    async def info():
        return Response(judge_info(model, hidden).model_dump_json(), media_type="application/json")

    @app.get("/health/ready")
    async def ready():
        return {"state": "ready", "workers": 1}

    @app.post("/v1/score")
    async def score(request: Request):
        asked, tensors = decode_score_request(await request.body(), ScoreLimits())
        await asyncio.sleep(0.05)
        answer = score_of(asked, {name: float(one[0, 0]) for name, one in tensors.items()})
        return Response(answer.model_dump_json(by_alias=True), media_type="application/json")

    return app


class Echoes(threading.Thread):
    """An application on a port, in a thread with a loop of its own."""

    def __init__(self, app):
        super().__init__()
        self.app = app
        self.server = make_server(self.app)
        self.listener = bind("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]

    def run(self):
        asyncio.run(self.server.serve(sockets=[self.listener]))

    def close(self):
        self.server.should_exit = True
        self.join(20)
        self.listener.close()


def serve(app, port):
    """Serve an application and say on which port."""
    with bind("127.0.0.1", port) as listener:
        sys.stdout.write(f"PORT {listener.getsockname()[1]}\n")
        sys.stdout.flush()
        asyncio.run(make_server(app).serve(sockets=[listener]))


if __name__ == "__main__":
    if sys.argv[1] == "judge":
        model, hidden = sys.argv[3:5] or (MODEL, HIDDEN)
        serve(judge_app(model, int(hidden)), int(sys.argv[2]))
    else:
        known = json.loads(sys.argv[3])
        pairs = {pair(name).ss58_address: pair(name) for name in known}
        specs = {pair(name).ss58_address: spec for name, spec in known.items()}
        serve(EchoMiners(pairs, specs), int(sys.argv[2]))
