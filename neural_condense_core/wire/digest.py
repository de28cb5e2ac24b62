"""``Content-Digest`` (RFC 9530): what makes a body that changed on its way noticed; pure.

Where it sits: a worker writes the header beside the bytes it made, clients check it after the last
byte. It guards against damage, not against a peer: who can change the body can change the header.

Design decisions

* sha-256 alone is written and checked. A header that names only other algorithms says nothing to
  us and is not held against the body, as the RFC has it; one that is malformed is.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re

from neural_condense_core.errors import CodecError

DIGEST_HEADER = "Content-Digest"
MAX_HEADER_CHARS = 1024

_MEMBER = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):\s*")


def content_digest(*parts: bytes | memoryview) -> str:
    """Return the value of the header for a body, given whole or in parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return f"sha-256=:{base64.b64encode(digest.digest()).decode('ascii')}:"


def check_digest(header: str | None, body: bytes) -> None:
    """Check a body against the header that came with it.

    Parameters
    ----------
    header : as it came; None = there was none, and nothing is checked
    body : whole

    Raises
    ------
    CodecError
        Reason ``digest``: the header is malformed, or the body is not the one that was sent.
    """
    if header is None:
        return
    stated = _stated(header)
    if stated is not None and not hmac.compare_digest(stated, hashlib.sha256(body).digest()):
        raise CodecError("the body is not the one that Content-Digest states", {"reason": "digest"})


def _stated(header: str) -> bytes | None:
    found: bytes | None = None
    for member in header[: MAX_HEADER_CHARS + 1].split(","):
        match = _MEMBER.fullmatch(member)
        if match is None or len(header) > MAX_HEADER_CHARS:
            raise CodecError("the Content-Digest header is malformed", {"reason": "digest"})
        if match[1] == "sha-256":
            try:
                # The last of several of one name counts, as structured fields have it.
                found = base64.b64decode(match[2], validate=True)
            except binascii.Error:
                raise CodecError(
                    "the Content-Digest header is malformed", {"reason": "digest"}
                ) from None
    return found
