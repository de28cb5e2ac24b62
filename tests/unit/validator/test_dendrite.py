"""The signed fan-out: a reply is data, and only the wire exchange is timed."""

import asyncio
import json

import httpx
import numpy as np
import pytest
from subnet_fakes import HIDDEN, MODEL, TIER, EchoMiners, matrix, pair, peer

from neural_condense_core.validator.dendrite import Dendrite, url_of
from neural_condense_core.validator.replies import MinerInfo, reason_code
from neural_condense_core.wire.codec import to_safetensors
from neural_condense_core.wire.safetensors_bytes import write_safetensors
from neural_condense_core.wire.signing import nonce_of, sign_answer

ME, MINER, OTHER = pair("validator"), pair("miner"), pair("other")
PEER = peer(3, MINER.ss58_address, "127.0.0.1:8091")
SAFETENSORS = "application/vnd.safetensors"


def dendrite(handler, **more):
    return Dendrite(
        ME, ME.ss58_address, hidden_size=HIDDEN, allow_private=True,
        transport=httpx.MockTransport(handler), **more,
    )  # fmt: skip


def signed(request, sent, key=MINER, **changes):
    facts = {
        "target": "/v1/condense", "nonce_ns": nonce_of(request.headers), "body": sent,
        "receiver": ME.ss58_address,
    }  # fmt: skip
    headers = sign_answer(key, **(facts | changes))
    return httpx.Response(200, content=sent, headers={**headers, "Content-Type": SAFETENSORS})


def ask(handler, tier=TIER, who=PEER, **more):
    async def run():
        one = dendrite(handler, **more)
        try:
            return await one.ask(who, tier, "some text")
        finally:
            await one.close()

    return asyncio.run(run())


def test_a_good_answer_is_tokens():
    seen = {}

    def handler(request):
        seen.update(url=str(request.url), body=json.loads(request.content), **request.headers)
        return signed(request, to_safetensors(matrix(0.5)))

    reply = ask(handler)
    assert (reply.status, reply.code, reply.uid) == ("ok", "ok", 3)
    assert reply.tokens.embeds.shape == (2, HIDDEN)
    assert seen["url"] == "http://127.0.0.1:8091/v1/condense"
    assert seen["body"] == {"tier": "research", "target_model": MODEL, "context": "some text"}
    assert seen["x-request-timeout"] == "2"
    assert seen["x-bittensor-receiver"] == MINER.ss58_address
    assert seen["accept-encoding"] == "identity"


def error(status, code):
    body = {"error": {"code": code, "message": "m", "detail": {}}}
    return lambda request: httpx.Response(status, json=body)


@pytest.mark.parametrize(
    ("handler", "status", "code"),
    [
        (error(429, "overloaded"), "refused", "overloaded"),
        (error(403, "forbidden"), "refused", "forbidden"),
        (error(401, "signature"), "refused", "signature"),
        (error(504, "deadline"), "timeout", "deadline"),
        (error(500, "X" * 900), "refused", "http_500"),
        (lambda r: httpx.Response(500, content=b"<html>"), "refused", "http_500"),
        (lambda r: httpx.Response(302, headers={"Location": "http://127.0.0.1/"}), "malformed",
         "http_302"),
        (lambda r: httpx.Response(200, content=b"x"), "malformed", "bad_signature"),
        (lambda r: signed(r, b"junk"), "malformed", "header"),
    ],
)  # fmt: skip
def test_what_fails_is_data_with_a_code(handler, status, code):
    reply = ask(handler)
    assert (reply.status, reply.code, reply.tokens) == (status, code, None)


@pytest.mark.parametrize(
    "code",
    [
        "ok", "timeout", "dormant", "given_up", "cut_short", "judge_refused", "bad_signature",
        "copied", "wrong_width", "not_finite", "private_address", "http_200",
    ],
)  # fmt: skip
def test_a_miner_cannot_give_itself_a_finding_of_the_validator(code):
    reply = ask(error(500, code))
    assert (reply.status, reply.code) == ("refused", "http_500")
    reply = ask(error(504, code))
    assert (reply.status, reply.code) == ("timeout", "http_504")


def test_trap_25_a_redirect_is_never_followed():
    urls = []

    def handler(request):
        urls.append(str(request.url))
        return httpx.Response(307, headers={"Location": "http://169.254.169.254/latest"})

    ask(handler)
    assert urls == ["http://127.0.0.1:8091/v1/condense"]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        (np.full((2, HIDDEN), np.nan, np.float32), "not_finite"),
        (np.full((2, HIDDEN), np.inf, np.float32), "not_finite"),
        (np.ones((2, HIDDEN + 1), np.float32), "hidden_size"),
        (np.ones((17, HIDDEN), np.float32), "too_many_tokens"),
    ],
)
def test_trap_14_bad_matrices_get_their_code(values, code):
    metadata = {"target_model": MODEL, "n_context_tokens": "9"}
    body = write_safetensors(values, None, metadata)
    assert ask(lambda r: signed(r, body)).code == code


def test_exactly_the_tiers_limit_is_fine():
    body = to_safetensors(matrix(0.5, n=TIER.max_condensed_tokens))
    assert ask(lambda r: signed(r, body)).is_ok


def test_tokens_for_another_model_are_refused():
    body = to_safetensors(matrix(0.5, model="another"))
    assert ask(lambda r: signed(r, body)).code == "target_model"


@pytest.mark.parametrize(
    "changes",
    [
        {"key": OTHER}, {"nonce_ns": 5}, {"target": "/v1/other"}, {"body": b"other"},
        {"receiver": OTHER.ss58_address},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_an_answer_that_is_not_signed_for_this_request_is_refused(changes):
    body = to_safetensors(matrix(0.5))
    reply = ask(lambda r: signed(r, body, **changes))
    assert (reply.status, reply.code) == ("malformed", "bad_signature")


def test_the_body_is_capped_while_it_is_read():
    sent = []

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self):
            for _ in range(10_000):
                sent.append(1)
                yield bytes(10_000)

    reply = ask(lambda r: httpx.Response(200, stream=Endless()))
    assert (reply.status, reply.code) == ("malformed", "too_large")
    assert len(sent) < 20


def test_a_compressed_answer_is_refused():
    reply = ask(lambda r: httpx.Response(200, content=b"", headers={"Content-Encoding": "br"}))
    assert (reply.status, reply.code) == ("malformed", "encoding")


@pytest.mark.parametrize(
    ("raised", "code"),
    [(httpx.ConnectError("no"), "connect"), (httpx.ReadError("no"), "broken")],
)
def test_who_cannot_be_reached_is_data(raised, code):
    def handler(request):
        raise raised

    reply = ask(handler)
    assert (reply.status, reply.code) == ("unreachable", code)


def test_a_body_that_trickles_is_a_timeout():
    class Trickle(httpx.AsyncByteStream):
        async def __aiter__(self):
            while True:
                yield b"x"
                await asyncio.sleep(0.05)

    async def run():
        one = dendrite(lambda r: httpx.Response(200, stream=Trickle()))
        return await one.ask(PEER, TIER, "text", timeout_s=0.3)

    reply = asyncio.run(run())
    assert (reply.status, reply.code) == ("timeout", "timeout")
    assert 0.25 < reply.elapsed_s < 1.5


def test_only_the_wire_exchange_is_timed():
    now = [0.0]
    active = []

    async def handler(request):
        active.append(1)
        assert len(active) == 1, "the slots bound what runs at once"
        now[0] += 1.0
        await asyncio.sleep(0.01)
        active.pop()
        return signed(request, to_safetensors(matrix(0.5)))

    async def run():
        one = dendrite(handler, max_concurrent=1, clock=lambda: now[0])
        return await asyncio.gather(*(one.ask(PEER, TIER, "text") for _ in range(5)))

    assert [reply.elapsed_s for reply in asyncio.run(run())] == [1.0] * 5


@pytest.mark.parametrize(
    ("endpoint", "allow_private", "url", "fault"),
    [
        (None, True, None, "no_endpoint"),
        ("127.0.0.1:80", False, None, "private_address"),
        ("10.0.0.8:80", False, None, "private_address"),
        ("169.254.169.254:80", False, None, "private_address"),
        ("0.0.0.0:80", False, None, "private_address"),
        ("[::1]:80", False, None, "private_address"),
        ("[::ffff:127.0.0.1]:80", False, None, "private_address"),
        ("127.0.0.1:80", True, "http://127.0.0.1:80", ""),
        ("8.8.8.8:8091", False, "http://8.8.8.8:8091", ""),
        ("[2600::1]:8091", False, "http://[2600::1]:8091", ""),
        ("localhost:80", True, None, "bad_endpoint"),
        ("evil.example:80", True, None, "bad_endpoint"),
        ("8.8.8.8:0", True, None, "bad_endpoint"),
        ("8.8.8.8:99999", True, None, "bad_endpoint"),
        ("8.8.8.8", True, None, "bad_endpoint"),
        ("8.8.8.8:80/path", True, None, "bad_endpoint"),
    ],
)
def test_trap_25_only_literal_public_addresses_are_asked(endpoint, allow_private, url, fault):
    found = url_of(endpoint, allow_private=allow_private)
    assert (found.url, found.fault) == (url, fault)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"tier": "research", "target_model": "m", "more": 1}', MinerInfo("research", "m")),
        (b'{"tier": "research"}', None),
        (b'{"tier": 5, "target_model": "m"}', None),
        (b'{"tier": "' + b"x" * 65 + b'", "target_model": "m"}', None),
        (b"[]", None),
        (b"junk", None),
        (b"x" * 20_000, None),
    ],
)
def test_metadata_is_read_or_nothing(body, expected):
    async def run():
        return await dendrite(lambda r: httpx.Response(200, content=body)).metadata(PEER)

    assert asyncio.run(run()) == expected


def test_a_code_from_outside_is_one_short_word():
    assert reason_code("overloaded", "x") == "overloaded"
    assert reason_code("Over loaded\n", "x") == "x"
    assert reason_code("a" * 33, "x") == "x"
    assert reason_code(None, "x") == "x"


def test_it_speaks_with_a_signing_miner():
    app = EchoMiners(
        {MINER.ss58_address: MINER}, {MINER.ss58_address: {"tier": "research", "quality": 0.5}}
    )

    async def run():
        one = Dendrite(
            ME, ME.ss58_address, hidden_size=HIDDEN, allow_private=True,
            transport=httpx.ASGITransport(app),
        )  # fmt: skip
        return await one.metadata(PEER), await one.ask(PEER, TIER, "text")

    info, reply = asyncio.run(run())
    assert info == MinerInfo("research", MODEL)
    assert reply.is_ok
