"""Requests, replies and health as JSON; errors name fields and never repeat values."""

from __future__ import annotations

import json
import traceback

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from neural_condense_core.errors import (
    CodecError,
    MalformedJsonError,
    NeuralCondenseError,
    OverloadedError,
    PayloadTooLargeError,
    RequestError,
)
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire.codec import to_json, to_json_base64
from neural_condense_core.wire.messages import (
    CondenseReply,
    CondenseReplyBase64,
    CondenseRequest,
    ErrorBody,
    ErrorInfo,
    Info,
    InfoLimits,
    Live,
    NotReady,
    Ready,
    parse_error,
    parse_health,
    parse_info,
    parse_request,
)


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_a_context_alone_is_a_request() -> None:
    assert parse_request(b'{"context": "some text"}') == CondenseRequest(context="some text")


def test_all_fields_and_unknown_ones() -> None:
    found = parse_request(
        body(
            context="x",
            target_model="m",
            ratio=4,
            max_condensed_tokens=7,
            encoding_format="base64",
            user="somebody",
            messages=[{"role": "user"}],
        )
    )
    assert found == CondenseRequest(
        context="x",
        target_model="m",
        ratio=4.0,
        max_condensed_tokens=7,
        encoding_format="base64",
    )


@pytest.mark.parametrize("context", ["Überraschung", "\U0001f600", "مرحبا", "\x00", "\u200b"])
def test_any_text_is_a_context(context: str) -> None:
    assert parse_request(body(context=context)).context == context


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({}, ["context"]),
        ({"context": None}, ["context"]),
        ({"context": 5}, ["context"]),
        ({"context": ["a"]}, ["context"]),
        ({"context": ""}, ["context"]),
        ({"context": " \t\r\n\u2003"}, ["context"]),
        ({"context": "SECRET", "ratio": 0.99}, ["ratio"]),
        ({"context": "SECRET", "ratio": "4"}, ["ratio"]),
        ({"context": "SECRET", "ratio": True}, ["ratio"]),
        ({"context": "SECRET", "max_condensed_tokens": 0}, ["max_condensed_tokens"]),
        ({"context": "SECRET", "max_condensed_tokens": 2.0}, ["max_condensed_tokens"]),
        ({"context": "SECRET", "target_model": ""}, ["target_model"]),
        ({"context": "SECRET", "target_model": "m" * 257}, ["target_model"]),
        ({"context": "SECRET", "encoding_format": "SECRET"}, ["encoding_format"]),
        ({"ratio": "SECRET", "target_model": 5}, ["context", "ratio", "target_model"]),
    ],
)
def test_a_wrong_request_names_its_fields_only(fields: dict[str, object], wrong: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(body(**fields))
    error = caught.value
    assert (error.status, error.code) == (422, "invalid_request")
    named = error.detail["fields"]
    assert isinstance(named, dict)
    assert sorted(named) == wrong
    assert "SECRET" not in json.dumps(error.body())
    assert "SECRET" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("raw", [b"[]", b'"SECRET"', b"5", b"null", b'[{"context": "x"}]'])
def test_json_that_is_no_object(raw: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(raw)
    assert caught.value.status == 422


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SECRET",
        b'{"context": "SECRET',
        b'{"context": "SECRET", "ratio": NaN}',
        b'{"context": "SECRET", "ratio": 1e999}',
        b'{"context": "SECRET\xff"}',
        b'{"context": "SECRET\\ud800"}',
        b"[" * 5000,
    ],
)
def test_a_body_that_is_not_json(raw: bytes) -> None:
    with pytest.raises(MalformedJsonError) as caught:
        parse_request(raw)
    assert caught.value.status == 400
    assert "SECRET" not in json.dumps(caught.value.body())
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


def test_the_byte_cap_counts_bytes_and_is_inclusive() -> None:
    raw = body(context="x")
    assert parse_request(raw, max_body_bytes=len(raw)).context == "x"
    with pytest.raises(PayloadTooLargeError) as caught:
        parse_request(raw, max_body_bytes=len(raw) - 1)
    assert caught.value.status == 413
    assert caught.value.detail == {"limit": len(raw) - 1}


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_a_request_or_a_request_error(raw: bytes) -> None:
    caught: RequestError | None = None
    try:
        found = parse_request(raw)
    except RequestError as error:
        caught = error
    assert found.context.strip() if caught is None else caught.status in {400, 422}


def test_requests_are_frozen() -> None:
    with pytest.raises(ValidationError):
        parse_request(body(context="x")).context = "y"  # type: ignore[misc]


def test_reply_models_describe_what_the_codec_writes() -> None:
    tokens = CondensedTokens(np.array([[0.5, 1.0]], np.float32), "m", 4, np.array([2]))
    assert CondenseReply.model_validate_json(to_json(tokens)) == CondenseReply(
        compressed_tokens=[[0.5, 1.0]],
        target_model="m",
        n_context_tokens=4,
        n_condensed_tokens=1,
        positions=[2],
    )
    encoded = CondenseReplyBase64.model_validate_json(to_json_base64(tokens, "float16"))
    assert (encoded.dtype, encoded.shape, encoded.positions) == ("float16", (1, 2), [2])
    # A cache adds ``cached``; a worker never does.
    assert set(json.loads(to_json(tokens))) == set(CondenseReply.model_fields) - {"cached"}
    fields = set(CondenseReplyBase64.model_fields) - {"cached"}
    assert set(json.loads(to_json_base64(tokens))) == fields


@pytest.mark.parametrize(
    "error", [RequestError("wrong", {"fields": {"ratio": "too low"}}), OverloadedError("full")]
)
def test_error_bodies_round_trip(error: NeuralCondenseError) -> None:
    raw = json.dumps(error.body()).encode()
    assert parse_error(raw) == ErrorInfo(
        code=error.code, message=error.message, detail=error.detail
    )
    assert ErrorBody.model_validate_json(raw).error.code == error.code


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b'{"error": "x"}', b'{"detail": []}'])
def test_a_foreign_error_body_is_none(raw: bytes) -> None:
    assert parse_error(raw) is None


@pytest.mark.parametrize(
    ("raw", "health"),
    [
        (b'{"state": "ready", "workers": 2, "since": 5}', Ready(workers=2)),
        (
            b'{"state": "loading", "stage": "weights", "done": 0.5, "elapsed_s": 3}',
            NotReady(state="loading", stage="weights", done=0.5, elapsed_s=3.0),
        ),
        (b'{"state": "draining"}', NotReady(state="draining")),
        (
            b'{"state": "failed", "reason": "no memory"}',
            NotReady(state="failed", reason="no memory"),
        ),
    ],
)
def test_health(raw: bytes, health: NotReady | Ready) -> None:
    assert parse_health(raw) == health
    assert parse_health(health.model_dump_json().encode()) == health


@pytest.mark.parametrize("raw", [b"", b"{}", b'{"state": "up"}', b'{"state": "ready"}', b"[1]"])
def test_what_is_no_health(raw: bytes) -> None:
    with pytest.raises(CodecError):
        parse_health(raw)


def test_live_says_so() -> None:
    assert Live().model_dump() == {"state": "live"}


def test_info_round_trip_and_refusal() -> None:
    info = Info(
        condenser="pooled-fast",
        target_model="m",
        hidden_size=576,
        ratios=[1, 2, 4],
        default_ratio=4,
        limits=InfoLimits(max_body_bytes=4, max_context_tokens=5, timeout_s=60),
        formats=["application/json"],
    )
    assert parse_info(info.model_dump_json().encode()) == info
    with pytest.raises(CodecError):
        parse_info(b"{}")
