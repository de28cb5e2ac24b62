"""``Content-Digest`` as RFC 9530 has it."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neural_condense_core.errors import CodecError
from neural_condense_core.wire.digest import check_digest, content_digest

# The example of RFC 9530, appendix B.1.
RFC_BODY = b'{"hello": "world"}\n'
RFC_DIGEST = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
OTHER = content_digest(b"other")


def test_the_example_of_the_rfc() -> None:
    assert content_digest(RFC_BODY) == RFC_DIGEST
    check_digest(RFC_DIGEST, RFC_BODY)


@given(st.lists(st.binary(max_size=20), max_size=4))
def test_parts_count_as_their_whole(parts: list[bytes]) -> None:
    assert content_digest(*parts) == content_digest(b"".join(parts))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "sha-512=:AAAA:",  # an algorithm that is not ours says nothing
        f"sha-512=:AAAA:, {RFC_DIGEST}",
        f"{OTHER},{RFC_DIGEST}",  # of two, the last counts
    ],
)
def test_headers_that_do_not_contradict(header: str | None) -> None:
    check_digest(header, RFC_BODY)


@pytest.mark.parametrize(
    "header",
    [
        OTHER,
        f"{RFC_DIGEST},{OTHER}",
        "",
        "sha-256",
        "sha-256=:not base64:",
        "sha-256=:AAA:",
        "sha-256=::",
        RFC_DIGEST + "x",
        RFC_DIGEST[:-1],
        "a=:AAAA:," * 200 + RFC_DIGEST,
    ],
)
def test_headers_that_contradict_or_are_none(header: str) -> None:
    with pytest.raises(CodecError) as caught:
        check_digest(header, RFC_BODY)
    assert caught.value.detail == {"reason": "digest"}


@given(st.text(max_size=60))
def test_no_header_breaks_the_check(header: str) -> None:
    with contextlib.suppress(CodecError):
        check_digest(header, b"body")


@pytest.mark.parametrize("header", ["a" * 1024, "," * 1024, "a=:" * 341, "  " * 512])
def test_hostile_headers_cost_little(header: str) -> None:
    began = time.perf_counter()
    with pytest.raises(CodecError):
        check_digest(header, b"body")
    assert time.perf_counter() - began < 0.5
