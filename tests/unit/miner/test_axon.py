import asyncio
import json
import logging
import time

import httpx
import pytest
from axon_miner import code_of, hold, with_miner
from bittensor import http_auth
from miner_parts import (
    HIDDEN,
    MINER,
    OTHER_VALIDATOR,
    PATH,
    STRANGER,
    TIER,
    VALIDATOR,
    asked,
    condensed,
    peer,
    read_answer,
    roster,
    signed,
)

from neural_condense_core.miner import axon as axon_module
from neural_condense_core.miner.axon import METADATA_PER_WINDOW, create_app
from neural_condense_core.miner.in_hand import MAX_UNPROVEN_EACH

MARKER = "zebra-in-a-context"


def test_a_signed_request_gets_a_signed_matrix(tmp_path):
    async def test(miner):
        answer, headers = await miner.ask(asked("a text of a certain length"))
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/vnd.safetensors"
        assert float(answer.headers["x-condense-backend-seconds"]) >= 0
        found = read_answer(answer, headers)
        assert found.embeds.shape == condensed("a text of a certain length").embeds.shape
        assert found.target_model == TIER.target_model

    with_miner(tmp_path, test)


def test_what_is_signed_is_the_target_as_it_came(tmp_path):
    async def test(miner):
        answer, headers = await miner.ask(target=f"{PATH}?a=%20b&c=d")
        assert answer.status_code == 200
        read_answer(answer, headers, target=f"{PATH}?a=%20b&c=d")

    with_miner(tmp_path, test)


def test_trap_26_unsigned_stale_and_replayed_requests_are_401(tmp_path):
    async def test(miner):
        body = asked()
        answer, headers = await miner.ask(body)
        assert answer.status_code == 200
        assert code_of((await miner.ask(body, headers=headers))[0]) == (401, "signature")
        assert code_of((await miner.ask(body, headers={}))[0]) == (401, "signature")
        old = http_auth.sign(
            VALIDATOR, method="POST", path=PATH, body=body,
            receiver_ss58=MINER.ss58_address, nonce_ns=time.time_ns() - 60 * 10**9,
        )  # fmt: skip
        assert code_of((await miner.ask(body, headers=old))[0]) == (401, "signature")
        other = signed(body, receiver=STRANGER)
        assert code_of((await miner.ask(body, headers=other))[0]) == (401, "signature")
        changed = signed(body)
        assert code_of((await miner.ask(asked("other"), headers=changed))[0]) == (401, "signature")
        assert len(miner.backend.requests) == 1

    with_miner(tmp_path, test)


def test_trap_27_unknown_callers_get_one_short_refusal_and_their_body_is_not_read(tmp_path):
    async def test(miner):
        async def body():
            raise AssertionError("the body was read")
            yield b""

        headers = signed(b"", key=STRANGER)
        answer = await miner.http.post(PATH, content=body(), headers=headers)
        assert code_of(answer) == (403, "forbidden")
        assert len(answer.content) < 200
        assert code_of((await miner.ask(key=MINER))[0]) == (403, "forbidden")

    with_miner(tmp_path, test)


def test_a_wrong_signature_does_not_use_up_the_allowance(tmp_path):
    async def test(miner):
        forged = {**signed(asked(), key=STRANGER)}
        forged["X-Bittensor-Hotkey"] = VALIDATOR.ss58_address
        before = miner.access._limiter.left(VALIDATOR.ss58_address, time.monotonic())
        for _ in range(5):
            assert code_of((await miner.ask(headers=forged))[0]) == (401, "signature")
        assert miner.access._limiter.left(VALIDATOR.ss58_address, time.monotonic()) == before

    with_miner(tmp_path, test)


def test_too_many_requests_get_429_and_retry_after(tmp_path):
    async def test(miner):
        for _ in range(10):
            assert (await miner.ask(key=OTHER_VALIDATOR))[0].status_code == 200
        answer, _ = await miner.ask(key=OTHER_VALIDATOR)
        assert code_of(answer) == (429, "overloaded")
        assert 500 < int(answer.headers["retry-after"]) <= 600
        assert (await miner.ask())[0].status_code == 200, "another validator is not affected"

    with_miner(tmp_path, test)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (asked(tier="research"), (422, "invalid_request")),
        (asked(target_model="other"), (404, "unknown_model")),
        (asked("x" * 401), (413, "context_too_long")),
        (asked("   "), (422, "invalid_request")),
        (b"{", (400, "not_json")),
        (b"[]", (422, "invalid_request")),
        (b'{"tier": "my-tier"}', (422, "invalid_request")),
        (b'{"x": "' + b"x" * 20_000 + b'"}', (413, "body_too_large")),
    ],
    ids=["tier", "model", "long", "blank", "json", "list", "missing", "huge"],
)
def test_requests_that_are_at_fault(tmp_path, body, expected):
    async def test(miner):
        answer, _ = await miner.ask(body)
        assert code_of(answer) == expected
        assert "xxx" not in answer.text
        assert miner.backend.requests == []

    with_miner(tmp_path, test)


def test_a_context_of_the_longest_size_in_its_longest_spelling(tmp_path):
    async def test(miner):
        context = "\U0001f600" * TIER.max_context_chars
        answer, _ = await miner.ask(
            json.dumps({**json.loads(asked()), "context": context}).encode()
        )
        assert answer.status_code == 200, answer.text

    with_miner(tmp_path, test)


def test_other_content_types_and_routes(tmp_path):
    async def test(miner):
        answer, _ = await miner.ask(**{"content-type": "text/plain"})
        assert code_of(answer) == (415, "unsupported_media_type")
        assert code_of(await miner.http.get("/nothing")) == (404, "not_found")
        assert code_of(await miner.http.get(PATH)) == (405, "method_not_allowed")
        assert (await miner.http.get("/docs")).status_code == 404

    with_miner(tmp_path, test)


def test_trap_32_a_slow_backend_is_answered_within_the_callers_time(tmp_path):
    async def test(miner):
        async def sleep(asked_for):
            await asyncio.sleep(30)

        miner.backend.answer = sleep
        began = time.monotonic()
        answer, _ = await miner.ask(**{"x-request-timeout": "0.4"})
        assert code_of(answer) == (504, "deadline")
        assert time.monotonic() - began < 2
        answer, _ = await miner.ask(**{"x-request-timeout": "soon"})
        assert code_of(answer) == (422, "invalid_request")

    with_miner(tmp_path, test)


def test_trap_32_a_backend_that_fails_is_502_and_not_ready(tmp_path):
    async def test(miner):
        async def fail(asked_for):
            return httpx.Response(500, text=asked_for["context"])

        async def gone(asked_for):
            raise httpx.ConnectError("refused")

        miner.backend.answer = fail
        answer, _ = await miner.ask(asked(MARKER))
        assert code_of(answer) == (502, "backend")
        assert MARKER not in answer.text
        assert (await miner.http.get("/health/ready")).status_code == 200
        miner.backend.answer = gone
        assert code_of((await miner.ask())[0]) == (502, "backend")
        assert (await miner.http.get("/health/ready")).status_code == 503
        miner.backend.answer = None
        assert (await miner.ask())[0].status_code == 200
        assert (await miner.http.get("/health/ready")).status_code == 200

    with_miner(tmp_path, test)


def test_only_so_many_requests_are_in_hand(tmp_path):
    async def test(miner):
        release = hold(miner, 2)
        first = [asyncio.create_task(miner.ask()) for _ in range(2)]
        await miner.has_arrived.wait()
        answer, _ = await miner.ask()
        assert code_of(answer) == (429, "overloaded")
        release.set()
        assert {(await task)[0].status_code for task in first} == {502}
        miner.backend.answer = None
        assert (await miner.ask())[0].status_code == 200

    with_miner(tmp_path, test, max_concurrent=2)


def from_address(miner, address):
    transport = httpx.ASGITransport(create_app(miner.axon), client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url="http://miner")


# Whoever claimed a validator's hotkey held the validators' places with a body that never came.
def test_bodies_that_never_come_keep_no_validator_out(tmp_path, monkeypatch):
    monkeypatch.setattr(axon_module, "BODY_TIMEOUT_S", 1.0)

    async def test(miner):
        n_waiting, all_wait, never = 0, asyncio.Event(), asyncio.Event()

        async def body():
            nonlocal n_waiting
            yield b"{"
            n_waiting += 1
            if n_waiting == MAX_UNPROVEN_EACH:
                all_wait.set()
            await never.wait()

        async with from_address(miner, "198.51.100.7") as attacker:
            held = [
                asyncio.create_task(
                    attacker.post(PATH, content=body(), headers=signed(b"{", key=VALIDATOR))
                )
                for _ in range(MAX_UNPROVEN_EACH)
            ]
            await asyncio.wait_for(all_wait.wait(), 10)
            one_more = await attacker.post(PATH, content=asked(), headers=signed(asked()))
            assert code_of(one_more) == (429, "overloaded"), "one address has its share"
            assert (await miner.ask())[0].status_code == 200
            assert not await miner.axon.drain(0.01), "who was let in is waited for"
            assert {code_of(answer) for answer in await asyncio.gather(*held)} == {
                (504, "deadline")
            }
            assert await miner.axon.drain(0.01)

    with_miner(tmp_path, test, max_concurrent=2)


def test_trap_28_no_context_reaches_a_log(tmp_path, caplog):
    async def test(miner):
        async def fail(asked_for):
            raise ValueError(asked_for["context"])

        await miner.ask(asked(MARKER))
        await miner.ask(asked(MARKER * 100))
        await miner.ask(asked(MARKER, tier="research"))
        await miner.ask(asked(MARKER), headers={})
        miner.backend.answer = fail
        answer, _ = await miner.ask(asked(MARKER))
        assert code_of(answer) == (500, "internal")
        assert MARKER not in answer.text

    with caplog.at_level(logging.DEBUG):
        with_miner(tmp_path, test)
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("neural_condense")]
    assert len(ours) >= 5
    assert "ValueError (its message is withheld)" in "".join(ours)
    assert MARKER not in caplog.text


def test_logs_hold_no_control_characters_of_a_stranger(tmp_path, caplog):
    async def test(miner):
        await miner.ask(headers={"X-Bittensor-Hotkey": "\x1b[31mred"})

    with caplog.at_level(logging.INFO):
        with_miner(tmp_path, test)
    assert "403 forbidden unregistered for ?" in caplog.text
    assert "\x1b" not in caplog.text


def test_stale_validators_make_the_miner_doubt_its_clock(tmp_path, caplog):
    async def test(miner):
        old = http_auth.sign(
            VALIDATOR, method="POST", path=PATH, body=asked(),
            receiver_ss58=MINER.ss58_address, nonce_ns=time.time_ns() - 60 * 10**9,
        )  # fmt: skip
        for _ in range(3):
            await miner.ask(headers=old)

    with_miner(tmp_path, test)
    assert caplog.text.count("clock is wrong") == 1


def test_metadata_is_open_and_limited_by_address(tmp_path):
    async def test(miner):
        found = (await miner.http.get("/v1/metadata")).json()
        assert found.pop("version")
        assert found == {
            "hotkey": MINER.ss58_address,
            "tier": "my-tier",
            "target_model": "tiny",
            "hidden_size": HIDDEN,
            "max_condensed_tokens": 32,
            "max_context_chars": 400,
        }
        answers = [await miner.http.get("/v1/metadata") for _ in range(METADATA_PER_WINDOW)]
        assert code_of(answers[-1]) == (429, "overloaded")
        assert answers[-2].status_code == 200

    with_miner(tmp_path, test)


def test_health_before_and_after(tmp_path):
    async def test(miner):
        assert (await miner.http.get("/health/live")).json() == {"state": "live"}
        ready = await miner.http.get("/health/ready")
        assert (ready.status_code, ready.json()["state"]) == (503, "loading")
        assert code_of((await miner.ask())[0]) == (503, "unavailable")
        miner.access.update(roster())
        assert (await miner.http.get("/health/ready")).json() == {"state": "ready", "workers": 1}
        assert await miner.axon.drain(1.0)
        ready = await miner.http.get("/health/ready")
        assert (ready.status_code, ready.json()["state"]) == (503, "draining")
        answer, _ = await miner.ask()
        assert code_of(answer) == (503, "unavailable")
        assert answer.headers["retry-after"]

    with_miner(tmp_path, test, has_roster=False)


def test_draining_waits_for_what_is_in_hand(tmp_path):
    async def test(miner):
        release = hold(miner, 1)
        running = asyncio.create_task(miner.ask())
        await miner.has_arrived.wait()
        assert not await miner.axon.drain(0.05)
        release.set()
        assert await miner.axon.drain(5.0)
        assert (await running)[0].status_code == 502

    with_miner(tmp_path, test)


def test_a_store_that_cannot_be_written_refuses(tmp_path):
    async def test(miner):
        miner.nonces.close()
        assert code_of((await miner.ask())[0]) == (503, "unavailable")
        assert miner.backend.requests == []

    with_miner(tmp_path, test)


def test_who_loses_its_permit_is_turned_away(tmp_path):
    async def test(miner):
        assert (await miner.ask())[0].status_code == 200
        miner.access.update(roster(peer(1, VALIDATOR, permit=False)))
        assert code_of((await miner.ask())[0]) == (403, "forbidden")

    with_miner(tmp_path, test)
