"""The page's own routes, without a browser: what they offer, refuse and bound."""

from __future__ import annotations

import asyncio

import pytest
from gateway_fakes import FakeSource, World, text_of

from neural_condense_core.api_keys import ApiUsers
from neural_condense_core.errors import ConfigError, UnsupportedError
from neural_condense_core.gateway import playground
from neural_condense_core.gateway.app import create_app
from neural_condense_core.gateway.contexts import Contexts
from neural_condense_core.gateway.estimating import Calibration
from neural_condense_core.gateway.playground import ASSETS
from neural_condense_core.gateway.reader_messages import Traced, TracedPiece
from neural_condense_core.gateway.settings import GatewaySettings
from neural_condense_core.pages.assets import SHARED

TEXT = text_of(80)


PIECE = TracedPiece("word", 2, 0.12345, 3.0)


def with_trace(world, error=None):
    asked = []

    async def trace(wanted):
        asked.append(wanted)
        if error is not None:
            raise error
        return Traced(80, wanted.start, (PIECE,))

    world.reading.trace = trace
    return asked


def kept(world):
    return world.ask("POST", "/v1/condense", json={"context": TEXT}).json()["id"]


def with_another_condenser():
    world = World()
    source = FakeSource(ratios=(2.0,))
    source.name, source.ratio = "other", 2.0
    other = Contexts(
        world.store, source, world.reading, Calibration("toy", (0.0, 1.0), (0.0, 1.0)),
        timeout_s=5.0, clock=lambda: world.now,
    )  # fmt: skip
    object.__setattr__(world.parts, "others", (other,))
    world.app = create_app(world.parts)
    return world, source


@pytest.mark.parametrize("path", [*ASSETS, *SHARED])
def test_every_file_of_the_page_needs_no_key(tmp_path, path):
    reply = World(users=ApiUsers(tmp_path / "keys.sqlite")).ask("GET", path)
    assert reply.status_code == 200
    assert reply.text


def test_what_can_be_chosen_is_told(world):
    found = world.ask("GET", "/playground/info").json()
    assert found["condensers"] == [
        {"name": "fake", "ratios": [4.0, 8.0, 16.0], "default_ratio": 4.0, "is_ready": True}
    ]
    assert (found["model"], found["window"], found["state"]) == ("toy", 1000, "ready")
    assert found["max_ratio"] == 16.0
    assert (
        world.ask("GET", "/v1/models").json()["data"][0]["condense"]["condensers"]
        == (found["condensers"])
    )


def test_a_further_condenser_is_chosen_by_name():
    world, source = with_another_condenser()
    names = [each["name"] for each in world.ask("GET", "/playground/info").json()["condensers"]]
    assert names == ["fake", "other"]
    body = {"context": TEXT, "condenser": "other"}
    made = world.ask("POST", "/v1/condense", json=body)
    assert (made.status_code, made.json()["n_condensed_tokens"]) == (201, 40)
    assert source.texts == [(TEXT, 2.0)]
    own = world.ask("POST", "/v1/condense", json={"context": TEXT}).json()
    assert (own["n_condensed_tokens"], own["id"] != made.json()["id"]) == (20, True)
    wrong = world.ask("POST", "/v1/condense", json={**body, "condenser": "gpt"})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["detail"]["served"] == ["fake", "other"]
    source.is_ready = False
    assert world.ask("POST", "/v1/condense", json=body).status_code == 503


def test_further_condensers_are_local_ones():
    assert GatewaySettings(also=("stride",)).also == ("stride",)
    with pytest.raises(ConfigError, match="--also is for local condensers"):
        GatewaySettings(also=("stride",), condense_with="backend=http://127.0.0.1:1")


def test_keys_are_asked_for_on_every_route_that_works(tmp_path):
    world = World(users=ApiUsers(tmp_path / "keys.sqlite"))
    assert world.ask("GET", "/playground/info").status_code == 401
    for path in ("/playground/text", "/playground/trace"):
        assert world.ask("POST", path, content=b"x").status_code == 401


def test_a_page_of_another_origin_is_refused(world):
    headers = {"origin": "http://evil.example", "content-type": "text/html"}
    reply = world.ask("POST", "/playground/text", content=b"<p>hi</p>", headers=headers)
    assert reply.status_code == 403


def test_a_text_from_the_store_says_so(world):
    body = {"context": TEXT}
    made = [world.ask("POST", "/v1/condense", json=body).json() for _ in range(2)]
    assert [each["from_store"] for each in made] == [False, True]
    assert world.ask("GET", f"/v1/contexts/{made[0]['id']}").json()["from_store"] is None


def test_a_stretch_is_scored_behind_the_stored_tokens(world):
    asked = with_trace(world)
    body = {"id": kept(world), "text": TEXT, "start": 16, "n_tokens": 32}
    reply = world.ask("POST", "/playground/trace", json=body)
    assert reply.json() == {
        "n_tokens": 80,
        "start": 16,
        "pieces": [{"text": "word", "n_tokens": 2, "condensed": 0.1235, "none": 3.0}],
    }
    assert (asked[0].text, asked[0].start, asked[0].n_tokens) == (TEXT, 16, 32)
    assert asked[0].tokens.n_condensed_tokens == 20


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"id": "ctx_" + "0" * 32}, 404, "id"),
        ({"id": "nonsense"}, 400, "id"),
        ({"text": ""}, 400, "text"),
        ({"start": -1}, 400, "start"),
        ({"n_tokens": 513}, 400, "n_tokens"),
    ],
)
def test_a_stretch_is_refused_in_words(world, changes, status, param):
    with_trace(world)
    body = {"id": kept(world), "text": TEXT, **changes}
    reply = world.ask("POST", "/playground/trace", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)


def test_an_engine_without_likelihoods_says_so(world):
    with_trace(world, error=UnsupportedError("this engine gives none"))
    reply = world.ask("POST", "/playground/trace", json={"id": kept(world), "text": TEXT})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "this engine gives none"


def test_a_context_of_another_user_is_not_found(tmp_path):
    users = ApiUsers(tmp_path / "keys.sqlite")
    keys = [users.add(name, 100)[1] for name in ("ann", "bob")]
    world = World(users=users)
    with_trace(world)
    headers = [{"authorization": f"Bearer {key}"} for key in keys]
    made = world.ask("POST", "/v1/condense", json={"context": TEXT}, headers=headers[0]).json()
    body = {"id": made["id"], "text": TEXT}
    for header, status in zip(headers, (200, 404), strict=True):
        reply = world.ask("POST", "/playground/trace", json=body, headers=header)
        assert reply.status_code == status


def test_so_many_stretches_at_once_and_no_more(world, monkeypatch):
    monkeypatch.setattr(playground, "MAX_TRACES_IN_HAND", 1)
    world.app = create_app(world.parts)
    found = kept(world)

    async def trace(wanted):
        await asyncio.sleep(0.2)
        return Traced(80, 0, ())

    world.reading.trace = trace

    async def go():
        import httpx

        transport = httpx.ASGITransport(world.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            body = {"id": found, "text": TEXT}
            calls = [client.post("/playground/trace", json=body) for _ in range(2)]
            return [each.status_code for each in await asyncio.gather(*calls)]

    assert sorted(asyncio.run(go())) == [200, 429]
    assert world.ask("POST", "/playground/trace", json={"id": found, "text": TEXT}).is_success


def test_the_text_of_a_file_comes_back(world):
    reply = world.ask(
        "POST", "/playground/text", content=b"<p>hello</p>",
        headers={"content-type": "text/html; charset=utf-8"},
    )  # fmt: skip
    assert reply.json() == {"text": "hello", "n_pages": 0, "is_cut": False}
    other = world.ask(
        "POST", "/playground/text", content=b"x", headers={"content-type": "image/png"}
    )
    assert other.status_code == 400
    assert "txt, md, html or pdf" in other.json()["error"]["message"]


def test_a_file_over_the_cap_is_refused(world, monkeypatch):
    monkeypatch.setattr(playground, "MAX_FILE_BYTES", 10)
    reply = world.ask(
        "POST", "/playground/text", content=b"x" * 11, headers={"content-type": "text/html"}
    )
    assert reply.status_code == 413
