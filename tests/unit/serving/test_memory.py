import pytest
import torch

from neural_condense_core.serving import memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 99 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("could not create a memory object"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_what_says_that_memory_ran_out(error):
    assert memory.ran_out(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ValueError("out of memory"), OSError(2, "no file")]
)
def test_what_does_not(error):
    assert not memory.ran_out(error)


def test_a_really_too_large_tensor_is_noticed():
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(1 << 58, dtype=torch.uint8)
    assert memory.ran_out(caught.value)
    memory.release()
