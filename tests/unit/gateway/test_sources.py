"""Who condenses: the contract is the same wherever it is done."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from neural_condense_core.errors import (
    ConfigError,
    ContextTooLongError,
    DeadlineError,
    NeuralCondenseError,
    OverloadedError,
    RequestError,
    UnauthorizedError,
    UnavailableError,
    UnknownModelError,
)
from neural_condense_core.gateway import sources
from neural_condense_core.gateway.settings import GatewaySettings, split_source
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.messages import Info, InfoLimits
from neural_condense_core.wire.organic import TierInfo, TierList

TOKENS = CondensedTokens(np.ones((2, 8), np.float32), "toy", 8)


def tier(name, max_chars, target="toy"):
    return TierInfo(
        name=name, target_model=target, max_context_chars=max_chars, max_condensed_tokens=9,
        timeout_s=1.0, n_miners=1,
    )  # fmt: skip


INFO = Info(
    condenser="pooled", target_model="toy", ratios=[2, 4], default_ratio=2.0, formats=[],
    limits=InfoLimits(max_body_bytes=1, max_context_tokens=1, timeout_s=1.0),
)  # fmt: skip

TIERS = TierList(tiers=(tier("swift", 2_000), tier("research", 1_500)))


class Client:
    """Stands in for either client."""

    def __init__(self, url, **settings):
        self.url = url
        self.settings = settings
        self.asked = []
        self.answers = [INFO]
        self.tier_answers = [TIERS]
        self.refusal = None
        self.pause_s = 0.0

    async def info(self):
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def tiers(self):
        found = self.tier_answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def condense(self, text, **wanted):
        self.asked.append((text, wanted))
        if self.refusal is not None:
            raise self.refusal
        await asyncio.sleep(self.pause_s)
        return TOKENS

    async def close(self):
        pass


@pytest.fixture(autouse=True)
def _clients(monkeypatch):
    monkeypatch.setattr(sources, "AsyncBackendClient", Client)
    monkeypatch.setattr(sources, "AsyncOrganicClient", Client)
    monkeypatch.setattr(sources, "POLL_S", 0.01)


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.01)


def made(text, **more):
    return sources.make_source(GatewaySettings(target="toy", condense_with=text, **more), 1)


def test_a_backend_says_what_it_serves():
    async def go():
        source = made("backend=http://127.0.0.1:1")
        source._client.answers = [UnavailableError("loading"), INFO]
        failures = []
        with pytest.raises(UnavailableError):
            await source.condense("x", 2.0, 1.0)
        source.start("toy", failures.append)
        while not source.is_ready:  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.01)
        assert (source.name, source.ratios, source.ratio) == ("pooled", (2.0, 4.0), 2.0)
        assert await source.condense("x", 2.0, 1.0) is TOKENS
        assert source._client.asked == [("x", {"ratio": 2.0, "target_model": "toy"})]
        source._client.pause_s = 5.0
        with pytest.raises(DeadlineError):
            await source.condense("x", 2.0, 0.05)
        await source.close()
        assert failures == []

    asyncio.run(go())


def test_a_backend_for_another_model_is_a_configuration_to_mend():
    async def go():
        source = made("backend=http://127.0.0.1:1")
        failures = []
        source.start("other", failures.append)
        await asyncio.sleep(0.05)
        assert isinstance(failures[0], ConfigError)
        assert not source.is_ready
        await source.close()

    asyncio.run(go())


def test_a_validator_is_asked_by_tier_with_its_key(monkeypatch):
    monkeypatch.setenv(sources.VALIDATOR_KEY, "nck_key")

    async def go():
        source = made("validator=http://127.0.0.1:1", tier="research")
        with pytest.raises(UnavailableError):
            await source.condense("x", 4.0, 1.0)
        source._client.tier_answers.insert(0, UnavailableError("starting"))
        source.start("toy", lambda error: None)
        await until(lambda: source.is_ready)
        assert await source.condense("x", 4.0, 1.0) is TOKENS
        assert source._client.asked == [("x", {"tier": "research", "target_model": "toy"})]
        assert (source.name, source.max_chars) == ("validator/research", 1_500)
        assert source._client.settings["api_key"] == "nck_key"
        await source.close()

    asyncio.run(go())


@pytest.mark.parametrize(("wanted", "target"), [("nowhere", "toy"), (None, "other")])
def test_a_validator_without_the_tier_or_for_another_model_is_to_mend(wanted, target):
    async def go():
        source = made("validator=http://127.0.0.1:1", tier=wanted)
        failures = []
        source.start(target, failures.append)
        await until(lambda: failures)
        assert isinstance(failures[0], ConfigError)
        assert "swift (toy)" in failures[0].message
        assert not source.is_ready
        await source.close()

    asyncio.run(go())


@pytest.mark.parametrize("kind", ["backend", "validator"])
@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (UnauthorizedError("no such key"), 502),
        (UnknownModelError("another model"), 502),
        (RequestError("no such ratio"), 502),
        (OverloadedError("busy"), 429),
        (DeadlineError("late"), 504),
        (ContextTooLongError("too long"), 413),
    ],
)
def test_what_a_service_refuses_is_not_the_askers_fault(kind, refusal, status):
    async def go():
        source = made(f"{kind}=http://127.0.0.1:1")
        source.start("toy", lambda error: None)
        await until(lambda: source.is_ready)
        source._client.refusal = refusal
        with pytest.raises(NeuralCondenseError) as caught:
            await source.condense("x", 4.0, 1.0)
        assert caught.value.status == status
        await source.close()

    asyncio.run(go())


@pytest.mark.parametrize("text", ["", "remote", "backend", "backend=ftp://x", "local=http://x"])
def test_what_is_no_source(text):
    with pytest.raises(ConfigError, match="condense_with"):
        split_source(text)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"port": 70_000}, "--port"),
        ({"timeout_s": 0}, "--timeout"),
        ({"floor": 2}, "--floor"),
        ({"mode": "some"}, "--mode"),
        ({"engine": "vllm"}, "--engine"),
        ({"engine": "sglang=here"}, "--engine"),
        ({"logging_level": "loud"}, "--logging_level"),
    ],
)
def test_settings_out_of_range_name_their_flag(flags, said):
    with pytest.raises(ConfigError, match=said):
        GatewaySettings(**flags)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_loopback_is_known(host, loopback):
    assert GatewaySettings(host=host).is_loopback is loopback
