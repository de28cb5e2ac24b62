"""llama.cpp's low-level calls as one object: a model, a context, rows in, logits out.

``llama_cpp.py`` builds the target model on it. The bindings come from llama-cpp-python, an extra.

Design decisions

* Everything that C code allocated is freed by ``close``, in the order it wants, exactly once.
* One cache for all sequences: copying a sequence then shares its rows instead of moving them.
* Every return code is looked at; llama.cpp's own log goes to Python's, where it is silent unless
  asked for.
"""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neural_condense_core.errors import TargetModelError

N_BATCH = 512
"""Rows that one call computes at most."""

_logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def bindings() -> Any:
    """Return llama-cpp-python's low-level module, its library initialised once.

    Raises
    ------
    TargetModelError
        It is not installed, or its library does not load.
    """
    try:
        from llama_cpp import llama_cpp as native
    except (ImportError, OSError, RuntimeError) as error:
        raise TargetModelError(
            f"the llama.cpp engine needs llama-cpp-python ({type(error).__name__}: {error}); "
            "install it: pip install 'neural-condense[llama-cpp]' (it compiles for some minutes)"
        ) from error
    native.llama_log_set(_LOG, None)
    native.llama_backend_init()
    return native


def _log(_level: int, text: bytes, _user: Any) -> None:
    # Errors too: whatever fails comes back as a return code, and that becomes an exception.
    _logger.debug("%s", text.decode("utf-8", "replace").rstrip())


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_log)
"""Kept for as long as the library may call it."""


def n_threads_default() -> int:
    """Return how many threads to compute with: ``OMP_NUM_THREADS``, else the CPUs at hand."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() and int(named) else len(os.sched_getaffinity(0))


class LlamaNative:
    """A GGUF model with a context.

    Parameters
    ----------
    path : GGUF file
    n_ctx : positions of one sequence at most; what the model was trained with bounds it
    n_spare : rows of the cache beyond that, for sequences that are kept
    n_sequences : how many sequences there may be at once
    n_threads : None = ``n_threads_default``
    float32_cache : keys, values and their sums in float32 instead of float16

    Raises
    ------
    TargetModelError
        The file is not a model that this llama.cpp reads.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int,
        n_spare: int,
        n_sequences: int,
        n_threads: int | None = None,
        float32_cache: bool = False,
    ) -> None:
        native = self._native = bindings()
        if not path.is_file():
            raise TargetModelError(f"there is no GGUF file at {path}")
        params = native.llama_model_default_params()
        self._model = native.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise TargetModelError(f"llama.cpp cannot read {path} as a model")
        self.max_positions = min(n_ctx, int(native.llama_model_n_ctx_train(self._model)))
        self.n_cells = self.max_positions + n_spare
        settings = native.llama_context_default_params()
        settings.n_ctx = self.n_cells
        settings.n_batch = settings.n_ubatch = N_BATCH
        settings.n_seq_max = n_sequences
        settings.kv_unified = True
        settings.n_threads = settings.n_threads_batch = n_threads or n_threads_default()
        if float32_cache:
            settings.type_k = settings.type_v = native.GGML_TYPE_F32
            settings.flash_attn_type = native.LLAMA_FLASH_ATTN_TYPE_DISABLED  # sums in float16
        self._context = native.llama_init_from_model(self._model, settings)
        if not self._context:
            native.llama_model_free(self._model)
            raise TargetModelError(
                f"llama.cpp cannot make room for {self.n_cells:,} rows of {path.name}; "
                "ask for fewer"
            )
        self.vocab = native.llama_model_get_vocab(self._model)
        self.n_vocab = int(native.llama_vocab_n_tokens(self.vocab))
        self.hidden_size = int(native.llama_model_n_embd_inp(self._model))
        self._tokens = native.llama_batch_init(N_BATCH, 0, 1)
        self._embeds = native.llama_batch_init(N_BATCH, self.hidden_size, 1)
        handles = (self._tokens, self._embeds, self._context, self._model)
        self._close = weakref.finalize(self, _free, native, *handles)

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        self._close()

    def decode(
        self,
        rows: Sequence[int] | npt.NDArray[np.float32],
        position: int,
        sequence: int,
        wanted: Sequence[int],
    ) -> None:
        """Compute rows behind what the sequence holds.

        Parameters
        ----------
        rows : token ids, or (n, hidden_size) float32; at most ``N_BATCH``
        position : of the first row; the others follow
        sequence : where they belong
        wanted : the rows whose logits will be read

        Raises
        ------
        TargetModelError
            llama.cpp refused.
        """
        n = len(rows)
        if isinstance(rows, np.ndarray):
            batch, exact = self._embeds, np.ascontiguousarray(rows, np.float32)
            ctypes.memmove(batch.embd, exact.ctypes.data, exact.nbytes)
        else:
            batch, ids = self._tokens, np.array(rows, np.int32)
            ctypes.memmove(batch.token, ids.ctypes.data, ids.nbytes)
        batch.n_tokens = n
        for i in range(n):
            batch.pos[i] = position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = 0
        for i in wanted:
            batch.logits[i] = 1
        code = self._native.llama_decode(self._context, batch)
        if code:
            raise TargetModelError(
                f"llama.cpp could not compute {n} rows: llama_decode gave {code}"
            )

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """Return (vocab,) logits of a wanted row; valid until the next ``decode``."""
        pointer = self._native.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(pointer, (self.n_vocab,))

    def copy(self, source: int, destination: int) -> None:
        """Let a sequence begin with all rows of another."""
        memory = self._native.llama_get_memory(self._context)
        self._native.llama_memory_seq_cp(memory, source, destination, -1, -1)

    def forget(self, sequence: int) -> None:
        """Empty a sequence."""
        memory = self._native.llama_get_memory(self._context)
        self._native.llama_memory_seq_rm(memory, sequence, -1, -1)

    def metadata(self, key: str) -> str | None:
        """Return a value of the file's metadata, up to 1 MB of it."""
        buffer = ctypes.create_string_buffer(1 << 20)
        length = self._native.llama_model_meta_val_str(
            self._model, key.encode(), buffer, len(buffer)
        )
        return None if length < 0 else buffer.value.decode("utf-8", "replace")

    def tokenize(self, text: str) -> list[int]:
        """Return token ids; special tokens are read, none are added.

        Raises
        ------
        TargetModelError
            llama.cpp does not say how many tokens there are.
        """
        raw = text.encode()
        room = len(raw) + 8
        for _ in range(2):  # where a text makes more tokens than bytes, the first try says how many
            buffer = (ctypes.c_int32 * room)()
            n = self._native.llama_tokenize(self.vocab, raw, len(raw), buffer, room, False, True)
            if n >= 0:
                return list(buffer[:n])
            room = -n
        raise TargetModelError(f"llama.cpp cannot tokenize a text of {len(raw)} bytes")

    def decode_ids(self, ids: Sequence[int], *, special: bool = False) -> bytes:
        """Return the bytes of token ids.

        Parameters
        ----------
        ids : token ids
        special : write special tokens out instead of leaving them out

        Raises
        ------
        TargetModelError
            llama.cpp does not say how many bytes there are.
        """
        tokens = (ctypes.c_int32 * len(ids))(*ids)
        room = 16 * len(ids) + 16
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            n = self._native.llama_detokenize(
                self.vocab, tokens, len(ids), buffer, room, False, special
            )
            if n >= 0:
                return buffer.raw[:n]
            room = -n
        raise TargetModelError(f"llama.cpp cannot write {len(ids)} tokens as text")

    def is_end(self, token: int) -> bool:
        """Return whether a token ends the model's turn."""
        return bool(self._native.llama_vocab_is_eog(self.vocab, token))

    def special_text(self, name: str) -> str:
        """Return how the ``"bos"`` or ``"eos"`` token is written; empty where there is none."""
        read = {"bos": self._native.llama_vocab_bos, "eos": self._native.llama_vocab_eos}[name]
        token = int(read(self.vocab))
        return (
            "" if token < 0 else self.decode_ids([token], special=True).decode("utf-8", "replace")
        )


def _free(native: Any, tokens: Any, embeds: Any, context: Any, model: Any) -> None:
    native.llama_batch_free(tokens)
    native.llama_batch_free(embeds)
    native.llama_free(context)
    native.llama_model_free(model)
