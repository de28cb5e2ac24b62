"""Content negotiation: the table of ``docs/wire.md`` and the rules of RFC 9110."""

from __future__ import annotations

import pickle
import time

import pytest

from neural_condense_core.errors import NotAcceptableError
from neural_condense_core.wire.accept import parse_accept, parse_media_type
from neural_condense_core.wire.codec import (
    JSON_BASE64,
    JSON_LIST,
    MEDIA_TYPES,
    SAFETENSORS,
    negotiate,
)

NAMES = {
    None: "application/json",
    "": "application/json",
    "*/*": "application/json",
    "application/*": "application/json",
    "application/json": "application/json",
    "Application/JSON; charset=utf-8": "application/json",
    "application/json; shape=list": "application/json; shape=list",
    'application/json;SHAPE="List"': "application/json; shape=list",
    "application/json; shape=object": "application/json",
    "application/json; encoding=base64": "application/json; encoding=base64",
    "application/json; dtype=bfloat16": "application/json; dtype=bfloat16",
    "application/json; encoding=base64; dtype=float16": (
        "application/json; encoding=base64; dtype=float16"
    ),
    "application/x-npy": "application/x-npy",
    "application/octet-stream": "application/octet-stream",
    "application/x-npy; dtype=float16": "application/x-npy; dtype=float16",
    "application/vnd.safetensors": "application/vnd.safetensors",
    "application/vnd.safetensors;dtype=bfloat16": "application/vnd.safetensors; dtype=bfloat16",
    "application/x-torch": "application/x-torch",
    "application/x-torch; dtype=bfloat16": "application/x-torch; dtype=bfloat16",
    "*/*; dtype=float16": "application/json; dtype=float16",
    # the highest q wins, whatever the order
    "application/json;q=0.5, application/x-npy": "application/x-npy",
    "application/x-npy;q=0.4, application/json;q=0.9": "application/json",
    "application/x-npy; dtype=float64, application/json;q=0.1": "application/json",
    # the most precise range speaks for an offer
    "*/*;q=0.9, application/json;q=0.1": "application/x-npy",
    "application/json;q=0, */*": "application/x-npy",
    "application/json, application/json;shape=list;q=0.1": "application/json",
    "application/json;shape=list, application/json;q=0.9": "application/json; shape=list",
    "application/x-npy, application/x-npy;dtype=float16;q=0.5": "application/x-npy",
    # of the same quality: the more precise, then the server's order
    "application/x-npy, */*": "application/x-npy",
    "application/vnd.safetensors, application/json": "application/json",
    "application/json, application/json; shape=list": "application/json; shape=list",
    # what is not well formed is skipped
    "nonsense, application/x-npy": "application/x-npy",
    "application/json;q=2, application/x-npy": "application/x-npy",
    "application/json;q=0.1234, application/x-npy;q=0.1": "application/x-npy",
    "*/json, application/x-npy;q=0.1": "application/x-npy",
    ",,application/x-npy,": "application/x-npy",
    'text/html; a="x, application/json", application/x-npy': "application/x-npy",
    "text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8": "application/json",
}


@pytest.mark.parametrize(("accept", "content_type"), NAMES.items())
def test_negotiation_table(accept: str | None, content_type: str) -> None:
    assert negotiate(accept).content_type == content_type


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "application/json;q=0",
        "*/*;q=0",
        "application/x-npy; dtype=bfloat16",
        "application/x-npy; dtype=int8",
        "application/x-npy; shape=list",
        "application/x-torch; shape=list",
        "application/json; encoding=base64; dtype=bfloat16",
        "application/json; shape=list; encoding=base64",
        "nonsense",
        'application/json; a="unterminated',
    ],
)
def test_not_acceptable_lists_what_is_offered(accept: str) -> None:
    with pytest.raises(NotAcceptableError) as caught:
        negotiate(accept)
    assert caught.value.status == 406
    offered = caught.value.detail["offered"]
    assert isinstance(offered, dict)
    assert offered.keys() == MEDIA_TYPES.keys()
    assert offered["application/x-npy"] == ["float32", "float16"]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "application/json; shape=list"),
        ("*/*", "application/json; shape=list"),
        ("application/json", "application/json; shape=list"),
        ("application/json; dtype=float16", "application/json; shape=list; dtype=float16"),
        ("application/json; shape=object", "application/json"),
        ("application/x-npy", "application/x-npy"),
    ],
)
def test_a_preference_decides_what_the_header_leaves_open(accept: str, content_type: str) -> None:
    assert negotiate(accept, JSON_LIST).content_type == content_type


def test_encoding_format_prefers_base64_but_an_explicit_header_wins() -> None:
    assert negotiate("*/*", JSON_BASE64).name == "base64"
    assert negotiate("application/json; encoding=float", JSON_BASE64).name == "json"


@pytest.mark.parametrize("content_type", sorted(MEDIA_TYPES))
def test_every_offer_is_reached_by_its_own_name(content_type: str) -> None:
    assert negotiate(content_type) == MEDIA_TYPES[content_type]


def test_a_format_travels_to_a_worker() -> None:
    format_ = negotiate("application/vnd.safetensors; dtype=float16")
    assert pickle.loads(pickle.dumps(format_)) == format_  # noqa: S301
    assert format_ != SAFETENSORS


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        MEDIA_TYPES["text/html"] = SAFETENSORS  # type: ignore[index]


@pytest.mark.parametrize(
    "header", ['"' * 60_000, "a/b," * 20_000, "a/b;" * 20_000, "a/b;x=" + '"\\' * 30_000]
)
def test_hostile_headers_cost_little(header: str) -> None:
    began = time.perf_counter()
    assert len(parse_accept(header)) <= 32
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("Application/JSON", ("application/json", {})),
        (' application/json ; Charset="UTF-8" ', ("application/json", {"charset": "utf-8"})),
        ('a/b; x="q\\"uote"', ("a/b", {"x": 'q"uote'})),
        ("application", ("", {})),
        ("a/b; broken", ("", {})),
        ("", ("", {})),
    ],
)
def test_parse_media_type(text: str, parsed: tuple[str, dict[str, str]]) -> None:
    assert parse_media_type(text) == parsed
