"""Convert SmolLM2's GGUF to a Hugging Face folder: bfloat16 safetensors, tokenizer, chat template.

Design decisions

* transformers reads the weights. Its reading of the tokenizer leaves out the pre-tokenizer, which
  GGUF stores by name only (``smollm``), so that is put right here: every digit stands alone
  *before* the byte-level split, which decides how spaces before a number are cut.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    modeling_gguf_pytorch_utils,
)
from transformers.utils import logging as transformers_logging

from neural_condense_core.errors import TargetModelError

T = TypeVar("T")


def _without_bar(items: Iterable[T], **_: object) -> Iterable[T]:
    return items


@contextmanager
def _quiet() -> Iterator[None]:
    verbosity = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    # The reader of GGUF has a bar of its own, which no setting of transformers turns off.
    bar = modeling_gguf_pytorch_utils.tqdm
    modeling_gguf_pytorch_utils.tqdm = _without_bar
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        modeling_gguf_pytorch_utils.tqdm = bar
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


def convert(gguf: Path, folder: Path, name: str) -> None:
    """Convert a GGUF file of the SmolLM2 family.

    Parameters
    ----------
    gguf : the file; weights of any quantisation that transformers reads
    folder : an existing folder to write to
    name : what the model is called in its own config

    Raises
    ------
    TargetModelError
        The file lacks weights that the architecture has.
    """
    with _quiet():
        model, info = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        if info["missing_keys"]:
            raise TargetModelError(
                f"{gguf.name} lacks {len(info['missing_keys'])} weights, such as "
                f"{sorted(info['missing_keys'])[0]!r}, as this version of transformers reads it"
            )
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ])
        model.config._name_or_path = name
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
