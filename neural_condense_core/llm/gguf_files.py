"""GGUF files: the embedded model's own, wider copies of any, rows of the embedding table.

``embedded.py`` turns the same file into a Hugging Face folder; llama.cpp reads it as it is.

Design decisions

* A wider copy holds the very numbers that the Hugging Face folder holds (4-bit weights, written out
  and rounded to bfloat16), as float32: with it two engines can be compared on equal weights. It is
  tensor by tensor, so any architecture and any quantisation can be widened.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neural_condense_core.errors import TargetModelError
from neural_condense_core.llm import embedded
from neural_condense_core.llm.cache import cache_root

_TABLE = "token_embd.weight"
_SKIPPED = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")


def embedded_gguf(progress: bool = True) -> Path:
    """Return the embedded model's GGUF file (4-bit); fetch it on the first call.

    Parameters
    ----------
    progress : show a progress bar on stderr while there is work to do
    """
    folder = cache_root() / f"{embedded.NAME}-gguf"
    source = embedded.SMOLLM2
    keep = partial(_keep, name=source.gguf_name)
    return embedded.prepare(source, folder, convert=keep, progress=progress) / source.gguf_name


def _keep(gguf: Path, folder: Path, *, name: str) -> None:
    shutil.copyfile(gguf, folder / name)


def widened_gguf(path: Path, folder: Path) -> Path:
    """Return a copy of a GGUF file with all weights in float32; write it unless it is there.

    Parameters
    ----------
    path : GGUF file of any quantisation
    folder : where the copy goes

    Raises
    ------
    TargetModelError
        The copy cannot be written.
    """
    copy = folder / f"{path.stem}.widened-f32.gguf"
    if copy.is_file():
        return copy
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            staged = Path(scratch) / copy.name
            _widen(path, staged)
            os.replace(staged, copy)
    except OSError as error:
        raise TargetModelError(f"cannot write {copy}: {error}") from error
    return copy


def _widen(path: Path, copy: Path) -> None:
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(copy, architecture)
    for name, field in reader.fields.items():
        if not name.startswith(_SKIPPED):
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, _as_bfloat16(_float32(tensor.data, tensor.tensor_type)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _float32(data: npt.NDArray[Any], kind: Any) -> npt.NDArray[np.float32]:
    from gguf.quants import dequantize

    found: npt.NDArray[np.float32] = dequantize(data, kind).astype(np.float32, copy=False)
    return found


def _as_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Round to the nearest bfloat16, ties to even, in float32."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)


@lru_cache(maxsize=2)
def _table(path: Path) -> Any:
    from gguf import GGUFReader

    return next(tensor for tensor in GGUFReader(path).tensors if tensor.name == _TABLE)


def embedding_rows(path: Path, ids: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return (n, hidden_size) float32 rows of a GGUF file's embedding table."""
    table = _table(path)
    return _float32(table.data[np.asarray(ids, np.int64)], table.tensor_type)
