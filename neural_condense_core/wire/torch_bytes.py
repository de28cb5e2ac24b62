"""The bytes that ``torch.save`` writes for one matrix, out only; no torch.

Where it sits: vLLM takes prompt embeddings as base64 of these bytes, so a client can pass a reply
on unread. A backend's workers write them. Nothing here reads them: that would be unpickling.

Design decisions

* Written by hand: a zip of a few stored members, of which one is a fixed pickle program with the
  dtype's name and two sizes in it. torch, which this package must not load, would write the same
  values with a different serial number in each process; these bytes are always the same.
* A test has torch read them, with ``weights_only``, and compares the program with torch's own.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from types import MappingProxyType

from neural_condense_core.tokens import FloatArray
from neural_condense_core.wire.arrays import cast, to_bfloat16

_STORAGES: Mapping[str, bytes] = MappingProxyType({
    "float32": b"FloatStorage",
    "float16": b"HalfStorage",
    "bfloat16": b"BFloat16Storage",
})
_FOLDER = "archive"


def write_torch(embeds: FloatArray, dtype: str | None = None) -> bytes:
    """Return what ``torch.save`` writes for a CPU tensor: float32, float16 or bfloat16."""
    name = dtype or embeds.dtype.name
    matrix = to_bfloat16(embeds) if name == "bfloat16" else cast(embeds, name)
    n_rows, n_columns = matrix.shape
    members: dict[str, bytes | memoryview] = {
        "data.pkl": _program(_STORAGES[name], n_rows, n_columns),
        ".format_version": b"1",
        "byteorder": b"little",
        "data/0": matrix.data.cast("B"),
        "version": b"3\n",
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path, content in members.items():
            # A fixed date and system: the same tokens always give the same bytes.
            info = zipfile.ZipInfo(f"{_FOLDER}/{path}")
            info.create_system = 0
            with archive.open(info, "w") as member:
                member.write(content)
    return file.getvalue()


def _program(storage: bytes, n_rows: int, n_columns: int) -> bytes:
    """Return the pickle: a contiguous tensor over the one storage, which is member ``data/0``."""
    return b"".join((
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00((",
        b"X\x07\x00\x00\x00storageq\x01ctorch\n", storage, b"\nq\x02",
        b"X\x01\x00\x00\x000q\x03X\x03\x00\x00\x00cpuq\x04",
        _number(n_rows * n_columns), b"tq\x05Q",
        b"K\x00", _number(n_rows), _number(n_columns), b"\x86q\x06",
        _number(n_columns), b"K\x01\x86q\x07",
        b"\x89ccollections\nOrderedDict\nq\x08)Rq\ttq\nRq\x0b.",
    ))  # fmt: skip


def _number(value: int) -> bytes:
    if value < 1 << 8:
        return b"K" + value.to_bytes(1, "little")
    if value < 1 << 16:
        return b"M" + value.to_bytes(2, "little")
    return b"J" + value.to_bytes(4, "little", signed=True)
