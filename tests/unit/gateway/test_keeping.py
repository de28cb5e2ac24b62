"""Stored contexts, who may see them, and who may ask at all."""

from __future__ import annotations

import pytest
from gateway_fakes import World, text_of

from neural_condense_core.api_keys import ApiUsers
from neural_condense_core.errors import ContextTooLongError
from neural_condense_core.wire.arrays import Limits
from neural_condense_core.wire.codec import from_safetensors

SAFETENSORS = "application/vnd.safetensors"


def kept(world, text=None, **more):
    body = {"context": text or text_of(80), **more}
    headers = more.pop("headers", None)
    return world.ask("POST", "/v1/condense", json=body, headers=headers)


def test_condense_look_list_and_delete(world):
    made = kept(world, ratio=8.0)
    assert made.status_code == 201
    info = made.json()
    assert (info["n_context_tokens"], info["n_condensed_tokens"]) == (80, 10)
    assert info["recovery"] == 0.9
    path = f"/v1/contexts/{info['id']}"
    assert info["from_store"] is False
    assert world.ask("GET", path).json() == {**info, "from_store": None}
    assert [each["id"] for each in world.ask("GET", "/v1/contexts").json()["data"]] == [info["id"]]
    assert world.ask("DELETE", path).json()["deleted"] is True
    gone = world.ask("GET", path)
    assert gone.status_code == 404
    assert gone.json()["error"]["code"] == "unknown_context"


def test_the_matrix_comes_by_accept(world):
    made = world.ask(
        "POST", "/v1/condense", json={"context": text_of(80)}, headers={"accept": SAFETENSORS}
    )
    tokens = from_safetensors(made.content, Limits(1 << 20, 100))
    assert (tokens.n_condensed_tokens, tokens.target_model) == (20, "toy")
    found = world.ask(
        "GET", f"/v1/contexts/{made.headers['x-condense-context-id']}",
        headers={"accept": SAFETENSORS},
    )  # fmt: skip
    assert found.content == made.content


def test_a_stored_context_answers_by_its_id(world):
    found = kept(world).json()["id"]
    part = {"type": "condensed_context", "id": found}
    text = {"type": "text", "text": "why?"}
    inside = world.chat([{"role": "user", "content": [part, text]}]).json()
    assert inside["usage"]["prompt_tokens"] == 4 + 20 + 1
    assert inside["condense"]["tokens_saved"] == 60
    beside = world.chat(
        [{"role": "user", "content": "why?"}], condense={"contexts": [found]}
    ).json()
    assert beside["usage"]["prompt_tokens"] == 4 + 20 + 2
    assert beside["condense"]["parts"][0]["reason"] == "reference"
    assert len(world.source.texts) == 1
    unknown = world.chat([{"role": "user", "content": [{**part, "id": "ctx_" + "0" * 32}]}])
    assert unknown.status_code == 404
    malformed = world.chat([{"role": "user", "content": [{**part, "id": "../x"}]}])
    assert malformed.status_code == 400


@pytest.mark.parametrize("body", [{"context": " "}, {}, {"context": "x", "ratio": 0}])
def test_what_cannot_be_condensed_is_refused(world, body):
    assert world.ask("POST", "/v1/condense", json=body).status_code == 400


def test_a_ratio_that_is_not_offered(world):
    assert kept(world, ratio=5).json()["error"]["param"] == "condense.ratio"


def test_errors_of_the_condenser(world):
    world.source.error = ContextTooLongError("too long")
    response = kept(world)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    world.source.error = None
    world.source.width = 9
    assert kept(world).status_code == 502
    world.source.is_ready = False
    assert kept(world).status_code == 503


def test_a_full_quota_refuses_what_was_asked_for_and_not_what_comes_along(world):
    for number in range(7):  # 50,000 bytes of quota, 200 rows of 32 bytes each
        assert kept(world, text_of(800, f"t{number}-")).status_code == 201
    assert kept(world, text_of(800, "more")).json()["error"]["code"] == "overloaded"
    content = f"{text_of(800, 'chat')}\n\nwhy?"
    found = world.chat([{"role": "user", "content": content}]).json()
    assert found["condense"]["parts"][0]["sent_as"] == "condensed"


@pytest.fixture
def users(tmp_path):
    with ApiUsers(tmp_path / "keys.sqlite") as found:
        yield found


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_keys_are_asked_for_where_there_is_a_file(users):
    world = World(users)
    _, token = users.add("ann", quota=3)
    question = [{"role": "user", "content": "why?"}]
    assert world.chat(question).status_code == 401
    wrong = world.chat(question, headers=bearer("nck_" + "0" * 12 + "_" + "x" * 43))
    assert wrong.json()["error"]["type"] == "authentication_error"
    assert world.ask("GET", "/v1/models").status_code == 401
    assert world.ask("GET", "/health/live").status_code == 200
    for _ in range(3):
        assert world.chat(question, headers=bearer(token)).status_code == 200
    spent = world.chat(question, headers=bearer(token))
    assert spent.status_code == 429
    assert int(spent.headers["retry-after"]) > 0


def test_contexts_are_their_makers_alone(users):
    world = World(users)
    (_, ann), (_, bob) = users.add("ann"), users.add("bob")
    body = {"context": text_of(80)}
    mine = world.ask("POST", "/v1/condense", json=body, headers=bearer(ann)).json()
    path = f"/v1/contexts/{mine['id']}"
    assert world.ask("GET", path, headers=bearer(ann)).status_code == 200
    for method in ("GET", "DELETE"):
        assert world.ask(method, path, headers=bearer(bob)).status_code == 404
    theirs = world.ask("POST", "/v1/condense", json=body, headers=bearer(bob)).json()
    assert theirs["id"] != mine["id"]


def test_who_keeps_guessing_is_shut_out(users):
    world = World(users)
    _, token = users.add("ann")
    for _ in range(60):
        assert world.ask("GET", "/v1/models", headers=bearer("no")).status_code == 401
    assert world.ask("GET", "/v1/models", headers=bearer(token)).status_code == 429


def test_a_rate_limit_a_user():
    world = World(requests_per_minute=2)
    question = [{"role": "user", "content": "why?"}]
    assert [world.chat(question).status_code for _ in range(3)] == [200, 200, 429]
    world.now += 61
    assert world.chat(question).status_code == 200


def test_a_page_of_another_origin_is_refused(world):
    path = "/v1/models"
    assert world.ask("GET", path, headers={"origin": "http://evil.example"}).status_code == 403
    assert world.ask("GET", path, headers={"origin": "http://127.0.0.1"}).status_code == 200
