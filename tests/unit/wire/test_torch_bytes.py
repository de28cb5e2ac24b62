"""torch reads the bytes that are written without it, and would have written the same values."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neural_condense_core.errors import CodecError
from neural_condense_core.wire.torch_bytes import write_torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
    elements=st.floats(-100, 100, width=32),
)


def program(raw: bytes) -> bytes:
    return zipfile.ZipFile(io.BytesIO(raw)).read("archive/data.pkl")


def saved(tensor: torch.Tensor) -> bytes:
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.getvalue()


@settings(max_examples=40, deadline=None)
@given(MATRICES, st.sampled_from(sorted(DTYPES)))
def test_torch_reads_the_same_tensor(embeds: np.ndarray, dtype: str) -> None:
    found = torch.load(io.BytesIO(write_torch(embeds, dtype)), weights_only=True)
    wanted = torch.from_numpy(embeds).to(DTYPES[dtype])
    assert found.dtype == wanted.dtype
    assert found.is_contiguous()
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("shape", [(1, 1), (3, 255), (2, 256), (300, 300), (1, 70_000)])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_the_program_is_the_one_that_torch_writes(shape: tuple[int, int], dtype: str) -> None:
    ours = write_torch(np.zeros(shape, np.float32), dtype)
    assert program(ours) == program(saved(torch.zeros(shape, dtype=DTYPES[dtype])))


def test_without_a_dtype_the_values_keep_theirs() -> None:
    half = np.ones((2, 3), np.float16)
    assert torch.load(io.BytesIO(write_torch(half)), weights_only=True).dtype == torch.float16


def test_the_same_tokens_give_the_same_bytes() -> None:
    embeds = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert write_torch(embeds) == write_torch(np.ascontiguousarray(embeds))


@pytest.mark.parametrize(("value", "dtype"), [(1e6, "float16"), (3.4e38, "bfloat16")])
def test_a_value_that_the_dtype_cannot_hold_is_an_error(value: float, dtype: str) -> None:
    with pytest.raises(CodecError) as caught:
        write_torch(np.full((1, 1), value, np.float32), dtype)
    assert caught.value.detail["reason"] == "range"
