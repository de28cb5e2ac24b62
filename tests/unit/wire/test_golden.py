"""The bytes of one small matrix in every format, frozen: other installations read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from neural_condense_core.errors import CodecError, RequestError
from neural_condense_core.tokens import CondensedTokens
from neural_condense_core.wire import codec
from neural_condense_core.wire.arrays import REASONS, Limits
from neural_condense_core.wire.messages import parse_request

GOLDEN = Path(__file__).parents[2] / "golden" / "wire"
PAGE = Path(__file__).parents[3] / "docs" / "wire.md"
LIMITS = Limits(max_bytes=1000, max_tokens=2, hidden_size=3)
TOKENS = CondensedTokens(
    np.array([[0.1, -2.5, 1e-7], [3.0, 0.0, 1.00390625]], np.float32),
    "smollm2-135m-instruct",
    8,
    np.array([1, 5]),
    "echo",
)
FLOAT16 = [[0.0999755859375, -2.5, 1.1920928955078125e-07], [3.0, 0.0, 1.00390625]]
BFLOAT16 = [[0.10009765625, -2.5, 1.0011717677116394e-07], [3.0, 0.0, 1.0]]

ENCODERS: dict[str, Callable[[CondensedTokens], bytes]] = {
    "object.json": codec.to_json,
    "list.json": codec.to_json_list,
    "base64.json": codec.to_json_base64,
    "float32.npy": codec.to_npy,
    "float16.npy": partial(codec.to_npy, dtype="float16"),
    "float32.safetensors": codec.to_safetensors,
    "float16.safetensors": partial(codec.to_safetensors, dtype="float16"),
    "bfloat16.safetensors": partial(codec.to_safetensors, dtype="bfloat16"),
    "float32.pt": codec.to_torch,
    "bfloat16.pt": partial(codec.to_torch, dtype="bfloat16"),
}
WRITTEN_ONLY = ".pt"
CONTENT_TYPES = {
    ".json": "application/json",
    ".npy": "application/x-npy",
    ".safetensors": "application/vnd.safetensors",
}


def test_every_golden_file_has_its_encoder() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(ENCODERS)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_encoders_still_write_the_golden_bytes(name: str) -> None:
    assert ENCODERS[name](TOKENS) == (GOLDEN / name).read_bytes()


@pytest.mark.parametrize("name", sorted(n for n in ENCODERS if not n.endswith(WRITTEN_ONLY)))
def test_decoders_still_read_the_golden_bytes(name: str) -> None:
    path = GOLDEN / name
    found = codec.decode(
        path.read_bytes(),
        CONTENT_TYPES[path.suffix],
        LIMITS,
        target_model="smollm2-135m-instruct",
        n_context_tokens=8,
    )
    rounded = {"float16": FLOAT16, "bfloat16": BFLOAT16}
    assert found.embeds.tolist() == rounded.get(path.stem, TOKENS.embeds.tolist())


def test_what_torch_writes_is_never_read() -> None:
    body = (GOLDEN / "float32.pt").read_bytes()
    with pytest.raises(CodecError) as caught:
        codec.decode(body, codec.TORCH.content_type, LIMITS)
    assert caught.value.detail["reason"] == "media_type"


def hex_dump(raw: bytes) -> str:
    lines = []
    for at in range(0, len(raw), 16):
        part = raw[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{at:04x}  {part.hex(' '):<47}  {text}".rstrip())
    return "\n".join(lines)


@pytest.mark.parametrize("name", ["object.json", "list.json", "base64.json"])
def test_the_page_shows_the_json(name: str) -> None:
    assert f"```json\n{(GOLDEN / name).read_text()}\n```" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["float32.npy", "bfloat16.safetensors"])
def test_the_page_shows_the_bytes(name: str) -> None:
    dump = hex_dump((GOLDEN / name).read_bytes())
    assert f"```text\n{dump}\n```" in PAGE.read_text(encoding="utf-8")


def test_the_page_explains_every_reason_and_media_type() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in (*REASONS, *codec.MEDIA_TYPES):
        assert f"`{name}`" in page, name


def test_the_page_quotes_a_real_error() -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(b'{"context": "x", "ratio": 0.5}')
    quoted = json.dumps(caught.value.body(), separators=(",", ":"))
    assert f"```json\n{quoted}\n```" in PAGE.read_text(encoding="utf-8")
