import multiprocessing
import sqlite3
import subprocess
import sys
import time

import pytest
from bittensor import http_auth
from bittensor.sp_core import CRYPTO_ED25519, CRYPTO_SR25519, Keypair

from neural_condense_core.errors import SignatureError, UnavailableError
from neural_condense_core.wire import signing
from neural_condense_core.wire.signing import (
    ALLOWED_SKEW_S,
    MAX_AGE_S,
    RETENTION_S,
    Caller,
    NonceStore,
    claimed_hotkey,
    nonce_of,
    sign_answer,
    sign_request,
    verify_answer,
    verify_request,
)

ALICE = Keypair.create_from_uri("//Alice")
BOB = Keypair.create_from_uri("//Bob")
EVE = Keypair.create_from_uri("//Eve")
BODY = b'{"context": "a text"}'
TARGET = "/v1/condense?a=%20b"
# Two new processes import the SDK meanwhile, on a machine that may be busy.
PATIENCE_S = 240


@pytest.fixture
def store(tmp_path):
    with NonceStore(tmp_path / "seen" / "nonces.sqlite") as made:
        yield made


def sign(key=ALICE, *, receiver=BOB, body=BODY, target=TARGET, method="POST"):
    return sign_request(
        key, method=method, target=target, body=body, receiver=receiver.ss58_address
    )


def signed_at(nonce_ns, key=ALICE):
    return http_auth.sign(
        key,
        method="POST",
        path=TARGET,
        body=BODY,
        receiver_ss58=BOB.ss58_address,
        nonce_ns=nonce_ns,
    )


def verify(headers, store, body=BODY, *, target=TARGET, method="POST", me=BOB):
    return verify_request(
        headers, body, method=method, target=target, self_hotkey=me.ss58_address, store=store
    )


def reason(headers, store, body=BODY, **changes):
    with pytest.raises(SignatureError) as caught:
        verify(headers, store, body, **changes)
    assert caught.value.status == 401
    return caught.value.detail["reason"]


def test_a_signed_request_says_who_sent_it(store):
    headers = sign()
    assert verify(headers, store) == Caller(ALICE.ss58_address, nonce_of(headers))


def test_names_of_headers_may_be_in_any_case(store):
    headers = {name.upper(): value for name, value in sign().items()}
    assert verify(headers, store).hotkey == ALICE.ss58_address
    assert nonce_of(headers) > 0


def test_trap_26_a_replayed_request_is_refused(store):
    headers = sign()
    verify(headers, store)
    assert reason(headers, store) == "replayed"


@pytest.mark.parametrize(
    "changes",
    [{"body": BODY + b" "}, {"target": "/v1/condense"}, {"method": "PUT"}],
    ids=["body", "target", "method"],
)
def test_what_was_signed_cannot_be_changed(store, changes):
    assert reason(sign(), store, **changes) == "signature"


def test_a_request_for_another_node_is_refused(store):
    assert reason(sign(), store, me=EVE) == "receiver"


def test_a_request_without_a_receiver_is_refused(store):
    headers = http_auth.sign(ALICE, method="POST", path=TARGET, body=BODY)
    assert reason(headers, store) == "receiver"


def test_a_request_in_somebody_elses_name_is_refused(store):
    headers = {**sign(EVE), http_auth.HEADER_HOTKEY: ALICE.ss58_address}
    assert reason(headers, store) == "signature"


@pytest.mark.parametrize("missing", list(signing.MAX_HEADER_CHARS))
def test_trap_26_missing_credentials_are_refused(store, missing):
    if missing == signing.CRYPTO_HEADER:
        return
    headers = {name: value for name, value in sign().items() if name.lower() != missing}
    assert reason(headers, store) in {"malformed", "receiver"}


def test_no_credentials_at_all(store):
    assert reason({}, store) == "malformed"
    with pytest.raises(SignatureError):
        claimed_hotkey({"content-type": "application/json"})
    with pytest.raises(ValueError, match="not signed"):
        nonce_of({})


@pytest.mark.parametrize("name", ["version", "hotkey", "receiver", "nonce", "crypto", "signature"])
def test_long_headers_are_refused_before_anything_is_computed(store, name, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("the SDK saw it")

    monkeypatch.setattr(http_auth, "verify", fail)
    headers = {**sign(), f"X-Bittensor-{name.title()}": "1" * 60_000}
    assert reason(headers, store) == "malformed"


@pytest.mark.parametrize(
    "value", ["1" * 48, "", "5" + "é" * 47], ids=["no address", "empty", "not ascii"]
)
def test_an_address_that_is_none(store, value):
    assert reason({**sign(), http_auth.HEADER_HOTKEY: value}, store) == "malformed"


@pytest.mark.parametrize(
    ("offset_s", "fresh"),
    [
        (-MAX_AGE_S + 3, True),
        (-MAX_AGE_S - 3, False),
        (ALLOWED_SKEW_S - 1, True),
        (ALLOWED_SKEW_S + 3, False),
    ],
)
def test_trap_26_stale_requests_are_refused(store, offset_s, fresh):
    headers = signed_at(time.time_ns() + int(offset_s * 1e9))
    if fresh:
        assert verify(headers, store).hotkey == ALICE.ss58_address
    else:
        assert reason(headers, store) == "stale"


def test_other_schemes_are_refused(store):
    ed25519 = Keypair.create_from_uri("//Alice", crypto_type=CRYPTO_ED25519)
    assert reason(sign(ed25519), store) == "malformed"


def test_a_later_sdk_is_told_the_scheme(store, monkeypatch):
    told = {}
    original = http_auth.verify

    def later(headers, body, *, expected_crypto_type, **rest):
        told["scheme"] = expected_crypto_type
        return original(headers, body, **rest)

    monkeypatch.setattr(http_auth, "verify", later)
    verify(sign(), store)
    assert told == {"scheme": CRYPTO_SR25519}


def test_an_answer_fits_its_request(store):
    headers = sign()
    caller = verify(headers, store)
    answer = sign_answer(
        BOB, target=TARGET, nonce_ns=caller.nonce_ns, body=b"matrix", receiver=caller.hotkey
    )
    check = {
        "target": TARGET,
        "nonce_ns": nonce_of(headers),
        "self_hotkey": ALICE.ss58_address,
        "peer_hotkey": BOB.ss58_address,
    }
    verify_answer(answer, b"matrix", **check)
    for changes, why in [
        ({"nonce_ns": nonce_of(headers) + 1}, "signature"),
        ({"target": "/other"}, "signature"),
        ({"self_hotkey": EVE.ss58_address}, "receiver"),
        ({"peer_hotkey": EVE.ss58_address}, "other_key"),
    ]:
        with pytest.raises(SignatureError) as caught:
            verify_answer(answer, b"matrix", **{**check, **changes})
        assert caught.value.detail["reason"] == why
    with pytest.raises(SignatureError):
        verify_answer(answer, b"other", **check)


def test_an_answer_by_another_key_is_refused():
    answer = sign_answer(EVE, target="/x", nonce_ns=1, body=b"", receiver=ALICE.ss58_address)
    with pytest.raises(SignatureError, match="another key"):
        verify_answer(
            answer, b"", target="/x", nonce_ns=1,
            self_hotkey=ALICE.ss58_address, peer_hotkey=BOB.ss58_address,
        )  # fmt: skip


def test_a_restart_does_not_forget(tmp_path):
    path, now = tmp_path / "nonces.sqlite", time.time_ns()
    with NonceStore(path) as first:
        assert first.check_and_store("h", now)
    with NonceStore(path) as second:
        assert not second.check_and_store("h", now)
        assert second.check_and_store("h", now + 1)
        assert second.check_and_store("g", now)


def _race(path, first_ns, start, hits):
    with NonceStore(path) as store:
        start.wait(PATIENCE_S)
        hits.put(sum(store.check_and_store("h", first_ns + i) for i in range(200)))


def test_processes_share_the_store(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, hits = context.Barrier(3), context.Queue()
    path = tmp_path / "nonces.sqlite"
    args = (path, time.time_ns(), start, hits)
    others = [context.Process(target=_race, args=args) for _ in range(2)]
    for other in others:
        other.start()
    start.wait(PATIENCE_S)
    found = [hits.get(timeout=PATIENCE_S) for _ in others]
    for other in others:
        other.join(60)
    assert sum(found) == 200, "each nonce was new exactly once"


def test_old_requests_are_forgotten_once_they_are_stale_for_long(tmp_path):
    now = [10**18]
    with NonceStore(tmp_path / "n.sqlite", clock_ns=lambda: now[0]) as store:
        assert store.check_and_store("h", now[0])
        now[0] += int((MAX_AGE_S + ALLOWED_SKEW_S) * 1e9)
        assert not store.check_and_store("h", 10**18)
        now[0] += int(2 * RETENTION_S * 1e9)
        store.check_and_store("h", now[0])
    with sqlite3.connect(tmp_path / "n.sqlite") as connection:
        assert connection.execute("select count(*) from nonce").fetchone() == (1,)
    connection.close()


def test_a_short_memory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="replays"):
        NonceStore(tmp_path / "n.sqlite", retention_s=MAX_AGE_S + ALLOWED_SKEW_S)


def test_a_store_that_cannot_be_written_lets_nothing_through(store, tmp_path):
    store.close()
    with pytest.raises(UnavailableError) as caught:
        verify(sign(), store)
    assert caught.value.status == 503
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnavailableError, match="cannot be written"):
        NonceStore(tmp_path / "file" / "n.sqlite")


def test_importing_it_does_not_load_the_sdk():
    program = (
        "import sys; import neural_condense_core.wire.signing; print('bittensor' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
