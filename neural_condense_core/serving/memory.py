"""Whether an exception means that memory ran out, and what can be given back then.

Design decisions

* Libraries say it in many ways: a class of their own, ``MemoryError``, or only a sentence in a
  ``RuntimeError``. torch is never imported for it: where it is not loaded it did not raise.
"""

from __future__ import annotations

import gc
import sys

_SENTENCES = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "could not create a memory object",
    "could not allocate",
    "cublas_status_alloc_failed",
)
"""What the allocators of CUDA, torch's CPU build and oneDNN say, lower case."""


def ran_out(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if not isinstance(error, RuntimeError | OSError):
        return False
    text = str(error).lower()
    return any(sentence in text for sentence in _SENTENCES)


def release() -> None:
    """Give back what a failed attempt left behind."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
