"""OpenAI's routes: what goes in, what comes out, and what nobody gets to see."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from gateway_fakes import PRIVATE, FakeSource, World, text_of

from neural_condense_core.errors import OverloadedError, UnavailableError
from neural_condense_core.llm.base import Sampling

QUESTION = {"role": "user", "content": "why?"}
LONG = {"role": "user", "content": f"{text_of(200)}\n\nwhy?"}

SCOPE = {
    "type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [],
    "raw_path": b"/v1/chat/completions", "query_string": b"", "client": ("127.0.0.1", 1),
    "scheme": "http", "server": ("test", 80), "http_version": "1.1", "root_path": "",
}  # fmt: skip


def events(response):
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def test_a_chat_is_answered_in_openais_shape(world):
    body = world.chat([QUESTION], temperature=0.5, seed=3, stop="END", max_tokens=9).json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "Hello there"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["prompt_tokens"] == 5
    assert body["usage"]["completion_tokens"] == 3
    assert body["usage"]["total_tokens"] == 8
    (asked,) = world.reading.asked
    assert asked.sampling == Sampling(0.5, 1.0, 3, ("END",))
    assert asked.max_new_tokens == 9


def test_a_stream_says_the_same_in_pieces(world):
    response = world.chat([LONG], stream=True, stream_options={"include_usage": True},
                          condense={"mode": "always"})  # fmt: skip
    assert response.headers["content-type"].startswith("text/event-stream")
    found = events(response)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert found[0]["condense"]["parts"][0]["sent_as"] == "condensed"
    said = [each["choices"][0]["delta"].get("content", "") for each in found[:-1]]
    assert "".join(said) == "Hello there"
    assert found[-2]["choices"][0]["finish_reason"] == "stop"
    assert found[-1]["choices"] == []
    assert found[-1]["usage"]["condense_tokens_saved"] == 150
    assert len({each["id"] for each in found}) == 1
    assert world.reading.n_closed == 1


def test_a_stream_without_usage_ends_with_its_finish(world):
    found = events(world.chat([QUESTION], stream=True))
    assert found[-1]["choices"][0]["finish_reason"] == "stop"


def test_completions(world):
    body = {"model": "toy", "prompt": "once upon", "max_tokens": 4}
    found = world.ask("POST", "/v1/completions", json=body).json()
    assert found["object"] == "text_completion"
    assert found["choices"][0]["text"] == "Hello there"
    streamed = world.ask("POST", "/v1/completions", json={**body, "stream": True})
    assert "".join(each["choices"][0]["text"] for each in events(streamed)) == "Hello there"
    assert world.reading.asked[0].lines[0].role == ""


def test_auto_condenses_only_what_does_not_fit(world):
    short = world.chat([LONG]).json()
    assert short["condense"] == {"mode": "auto", "tokens_saved": 0, "parts": []}
    long = world.chat([{"role": "user", "content": f"{text_of(900)}\n\nwhy?"}]).json()
    assert long["usage"]["prompt_tokens"] <= 750
    assert long["condense"]["tokens_saved"] == 675
    assert world.source.texts[0][1] == 4.0


def test_a_conversation_keeps_its_newest_turns_and_fits(world):
    turns = []
    for number in range(12):
        turns += [
            {"role": "user", "content": text_of(90, f"q{number}-")},
            {"role": "assistant", "content": "yes"},
        ]
    found = world.chat([*turns, QUESTION], condense={"keep_tokens": 200}).json()
    condensed = [part["part"] for part in found["condense"]["parts"]]
    assert condensed == sorted(condensed)
    assert condensed[0] == 0
    assert max(condensed) < 2 * 10
    assert found["usage"]["prompt_tokens"] <= 750


def test_the_same_text_is_condensed_once(world):
    first = world.chat([LONG], condense={"mode": "always"}).json()["condense"]["parts"][0]
    second = world.chat([LONG], condense={"mode": "always"}).json()["condense"]["parts"][0]
    assert (first["from_store"], second["from_store"]) == (False, True)
    assert first["id"] == second["id"]
    assert len(world.source.texts) == 1
    assert world.reading.n_estimates == 1


def test_what_is_below_the_floor_is_sent_as_text(world):
    world.reading.gain = 0.05
    response = world.chat([LONG], condense={"mode": "always"})
    (part,) = response.json()["condense"]["parts"]
    assert (part["sent_as"], part["reason"], part["recovery"]) == ("text", "below_floor", 0.05)
    assert response.json()["usage"]["prompt_tokens"] == 205
    assert response.json()["usage"]["condense_tokens_saved"] == 0
    assert response.headers["x-condense-parts-as-text"] == "1"
    low = world.chat([LONG], condense={"mode": "always", "floor": 0.0}).json()
    assert low["condense"]["parts"][0]["sent_as"] == "condensed"


def test_below_the_floor_without_room_for_the_text(world):
    world.reading.gain = 0.05
    found = world.chat([{"role": "user", "content": f"{text_of(2000)}\n\nwhy?"}]).json()
    (part,) = found["condense"]["parts"]
    assert (part["sent_as"], part["reason"]) == ("condensed", "below_floor_no_room")


def test_an_engine_that_cannot_estimate_condenses_all_the_same(world):
    world.reading.gain = None
    found = world.chat([LONG], condense={"mode": "always"}).json()
    assert found["condense"]["parts"][0]["recovery"] is None
    assert found["condense"]["parts"][0]["sent_as"] == "condensed"


def test_text_that_stays_text_is_unchanged(world):
    content = f"Read this:\n\n{text_of(300)}\n\nwhy?\n"
    world.chat([{"role": "user", "content": content}])
    (line,) = world.reading.asked[0].lines
    assert "".join(line.parts) == content


def test_a_text_too_long_for_one_piece_is_cut():
    world = World(max_context_tokens=100)
    found = world.chat([{"role": "user", "content": f"{text_of(450)}\n\nwhy?"}],
                       condense={"mode": "always"}).json()  # fmt: skip
    assert len(found["condense"]["parts"]) == 5
    assert " ".join(text for text, _ in sorted(world.source.texts)).count("word") == 450


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"n": 2}, None),
        ({"tools": [{}]}, None),
        ({"logprobs": True}, None),
        ({"response_format": {"type": "json_object"}}, None),
        ({"condense": {"mode": "much"}}, "condense.mode"),
        ({"condense": {"mode": "always", "ratio": 5}}, "condense.ratio"),
        ({"stop": ["a", ""]}, None),
    ],
)  # fmt: skip
def test_what_is_not_served_is_refused_by_name(world, change, param):
    body = {"model": "toy", "messages": [LONG], "condense": {"mode": "always"}, **change}
    response = world.ask("POST", "/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert param is None or str(error["param"]).startswith(param)


def test_bodies_that_are_none(world):
    path = "/v1/chat/completions"
    assert world.ask("POST", path, content=b"{").status_code == 400
    assert world.ask("POST", path, content=b"[]").status_code == 400
    text = {"content-type": "text/plain"}
    assert world.ask("POST", path, content=b"{}", headers=text).status_code == 400
    huge = b" " * 16_000_001
    assert world.ask("POST", path, content=huge).status_code == 413


def test_another_model_is_not_found(world):
    response = world.ask(
        "POST", "/v1/chat/completions", json={"model": "gpt", "messages": [QUESTION]}
    )
    assert response.status_code == 404
    assert response.json()["error"]["param"] == "model"


def test_a_prompt_beyond_the_window_is_a_400_of_openais_code(world):
    response = world.chat([LONG], condense={"mode": "never", "budget": 64}, max_tokens=900)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    response = world.chat([QUESTION], max_tokens=1000)
    assert response.json()["error"]["param"] == "max_tokens"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (OverloadedError("full", retry_after_s=7.0), 429, "rate_limit_error"),
        (UnavailableError("loading"), 503, "server_error"),
    ],
)
def test_what_may_pass_says_when(world, error, status, kind):
    world.reading.error = error
    for stream in (False, True):
        response = world.chat([QUESTION], stream=stream)
        assert response.status_code == status
        assert response.json()["error"]["type"] == kind
        assert int(response.headers["retry-after"]) >= 1


def test_a_failure_tells_and_logs_nothing_of_the_prompt(world, caplog):
    caplog.set_level(logging.DEBUG)
    world.reading.break_after = 0
    response = world.chat([{"role": "user", "content": PRIVATE}])
    assert response.status_code == 500
    assert PRIVATE not in response.text
    world.reading.break_after = 1
    response = world.chat([{"role": "user", "content": PRIVATE}], stream=True)
    assert response.status_code == 200
    assert "error" in json.loads(response.text.split("\n\n")[-2][6:])
    assert PRIVATE not in response.text + caplog.text


def test_a_client_that_leaves_ends_the_work(world):
    async def go():
        sent = []
        left = asyncio.Event()

        async def receive():
            if not sent:
                sent.append(1)
                body = {"model": "toy", "messages": [QUESTION], "stream": True}
                return {"type": "http.request", "body": json.dumps(body).encode()}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.body":
                left.set()
                await asyncio.sleep(0.05)

        world.reading.answer = ["word "] * 10_000
        await asyncio.wait_for(world.app(SCOPE, receive, send), 10)
        await asyncio.sleep(0.05)

    asyncio.run(go())
    assert world.reading.n_closed == 1
    assert "condense_gateway_in_hand 0.0" in world.ask("GET", "/metrics").text


def test_a_client_that_stops_reading_is_cut_off(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("neural_condense_core.gateway.answering.READ_OUT_S", 0.05)
    world = World(timeout_s=1.0)

    async def go():
        sent = []

        async def receive():
            if not sent:
                sent.append(1)
                body = {"model": "toy", "messages": [QUESTION], "stream": True}
                return {"type": "http.request", "body": json.dumps(body).encode()}
            await asyncio.sleep(3600)
            return None

        async def send(message):
            if message["type"] == "http.response.body":
                await asyncio.sleep(3600)  # its buffer is full

        await asyncio.wait_for(world.app(SCOPE, receive, send), 10)
        await asyncio.sleep(0.05)

    asyncio.run(go())
    assert world.reading.n_closed == 1
    assert "condense_gateway_in_hand 0.0" in world.ask("GET", "/metrics").text
    assert "does not read" in caplog.text


def test_readiness_waits_for_every_condenser_that_is_offered():
    more = [FakeSource(), FakeSource()]
    more[0].name, more[1].name = "swift", "thorough"
    world = World(others=more)
    more[1].is_ready = False
    response = world.ask("GET", "/health/ready")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json() == {
        "state": "loading", "model": "ready", "condenser": "ready",
        "also": {"swift": "ready", "thorough": "loading"}, "reason": None,
    }  # fmt: skip
    more[1].is_ready = True
    assert world.ask("GET", "/health/ready").status_code == 200
    world.reading.state = "loading"
    world.reading.failure = UnavailableError("at an address")
    body = world.ask("GET", "/health/ready").json()
    assert (body["state"], body["reason"]) == ("loading", "unavailable")


def test_models_health_and_metrics(world):
    (model,) = world.ask("GET", "/v1/models").json()["data"]
    assert (model["id"], model["max_model_len"]) == ("toy", 1000)
    assert world.ask("GET", "/v1/models/toy").json() == model
    assert world.ask("GET", "/v1/models/other").status_code == 404
    assert world.ask("GET", "/health/live").json() == {"state": "live"}
    assert world.ask("GET", "/health/ready").status_code == 200
    world.source.is_ready = False
    assert world.ask("GET", "/health/ready").status_code == 503
    world.chat([LONG], condense={"mode": "always"})
    text = world.ask("GET", "/metrics").text
    assert 'condense_gateway_tokens_total{kind="saved"} 150.0' in text
    assert 'route="/v1/chat/completions",status="200"' in text
    assert world.ask("GET", "/nowhere").json()["error"]["type"] == "not_found_error"
    assert world.ask("GET", "/v1/condense").status_code == 405


def test_auto_begins_with_the_gentlest_ratio_and_always_with_the_condensers_own():
    world = World(source=FakeSource(ratios=None))
    messages = [{"role": "user", "content": f"{text_of(900)}\n\nwhy?"}]
    world.chat(messages)
    world.chat(messages, condense={"mode": "always"})
    assert [ratio for _, ratio in world.source.texts] == [2.0, 4.0]
    world.chat(messages, condense={"budget": 300})
    assert world.source.texts[-1][1] == 4.0
