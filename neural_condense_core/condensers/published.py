"""Condensers as their authors published them: which ones are known, and what a folder holds.

Where it sits: ``condense models pull`` asks it what was fetched; the loaders
(``arc_encoder.py``, ``lclm.py``, ``icae_published.py``) share how such files are read.

Design decisions

* What a folder holds is told by its files alone, never by a name or a claim in it.
* Published settings are read once, when a condenser is installed, and become the ``config`` of our
  own ``config.json``; what the files do not say (the target model, the licence) comes from the
  table of known ones or from the user.
* A method counts as verified where its results were compared with the published code's own. An
  independent computation on random weights checks the arithmetic as we read it, not our reading.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from neural_condense_core.condensers.installed import OWN_TARGET
from neural_condense_core.errors import CheckpointError, RequestError, TargetModelError

WEIGHTS_SUFFIX = ".safetensors"
TOKENIZER_FILE = "tokenizer.json"
MAX_JSON_BYTES = 1 << 20
_PROBE = (
    "It's 3.14 o'clock, isn't it?\n\nNaïve \u201cquotes\u201d \u2014 x_1 = {y: 1024};\t#Tag "
    "ANTIDISESTABLISHMENT \u4eca\u5929 \u041f\u0440\u0438\u0432\u0435\u0442 \U0001f44d  two  ends."
)

VERIFIED = {
    "icae": "equal to the published code's output on a small model, to 1e-4",
}
"""Methods whose results were compared with the published code's, and how."""
UNVERIFIED = "checked against an independent computation on random weights only"


@dataclass(frozen=True)
class Known:
    """A published condenser that can be pulled.

    Parameters
    ----------
    repo : its name on the Hugging Face hub
    method : registry name of the class that loads it
    target_model : the model it condenses for; empty: it brings its own
    ratios : compression ratios it was trained for
    gigabytes : size of what is fetched, about
    licence : of the weights, as the authors state it
    files : what is needed of a repository that holds several, empty for all of it
    tokenizer : where the tokenizer is if not in the repository, empty if there or the target's own
    """

    repo: str
    method: str
    target_model: str
    ratios: tuple[int, ...]
    gigabytes: float
    licence: str
    files: tuple[str, ...] = ()
    tokenizer: str = ""


_LLAMA = "meta-llama/Llama-3.1-8B"
_MISTRAL = "mistralai/Mistral-7B-v0.1"
_ENCODER = "meta-llama/Llama-3.2-3B"
_ARC_LICENCE = "CC-BY-4.0, Llama 3.2 Community License"

KNOWN = (
    Known("kyutai/ARC8_Encoder_Llama", "arc-encoder", _LLAMA, (8,), 12.2, _ARC_LICENCE),
    Known("kyutai/ARC4_Encoder_Llama", "arc-encoder", _LLAMA, (4,), 12.2, _ARC_LICENCE),
    Known(
        "kyutai/ARC8_Encoder_Mistral", "arc-encoder", _MISTRAL, (8,), 12.2, _ARC_LICENCE,
        tokenizer=_ENCODER,
    ),
    Known("latent-context/0.6b-4b-LCLM-4x", "lclm", "", (4,), 9.3, "Apache-2.0"),
    Known("latent-context/0.6b-4b-LCLM-8x", "lclm", "", (8,), 9.3, "Apache-2.0"),
    Known("latent-context/0.6b-4b-LCLM-16x", "lclm", "", (16,), 9.3, "Apache-2.0"),
    Known(
        "sggetao/icae", "icae", "mistralai/Mistral-7B-Instruct-v0.2", (4,), 0.44, "Apache-2.0",
        files=("mistral_7b_ft_icae.safetensors",),
    ),
)  # fmt: skip


def known(repo: str) -> Known | None:
    """Return what is known of a repository."""
    return next((entry for entry in KNOWN if entry.repo == repo), None)


@dataclass(frozen=True)
class Recognised:
    """What a folder of published files holds.

    Parameters
    ----------
    method : registry name of the class that loads it
    hidden_size : width of a condensed token
    ratios : compression ratios it was trained for
    config : its settings, as the class reads them
    target_model : where the files say or are it, else empty
    weights : the one weights file that makes a checkpoint of our own layout, else empty
    """

    method: str
    hidden_size: int
    ratios: tuple[int, ...]
    config: dict[str, Any] = field(default_factory=dict)
    target_model: str = ""
    weights: str = ""


def recognise(folder: Path, changes: Mapping[str, Any] | None = None) -> Recognised:
    """Return what a folder of published files holds.

    Parameters
    ----------
    folder : the files
    changes : settings of the method that win over what the files say

    Raises
    ------
    CheckpointError
        None of the published condensers that can be loaded.
    """
    for reader in (_arc_encoder, _lclm, _icae):
        found = reader(folder, changes or {})
        if found is not None:
            return found
    raise CheckpointError(
        f"{folder} holds no condenser that can be loaded: neither a checkpoint of this project "
        "(condenser.safetensors, config.json), an ARC-Encoder (model.safetensors, config.json "
        "with embedder_args), an LCLM (encoder/, decoder/, adapter/, model_config.json) nor an "
        "ICAE v2 (one .safetensors file)"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a small JSON object from outside.

    Raises
    ------
    CheckpointError
        It is missing, too large or no JSON object.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no {path}")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_JSON_BYTES} bytes")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return found


def whole(settings: Mapping[str, Any], key: str, where: Path, low: int = 1) -> int:
    """Return a whole number of published settings.

    Raises
    ------
    CheckpointError
        It is missing, no whole number or below ``low``.
    """
    value = settings.get(key)
    if type(value) is not int or value < low:
        raise CheckpointError(f"{where}: {key} must be a whole number from {low} on, got {value!r}")
    return value


def required(settings: Mapping[str, Any], key: str, allowed: Iterable[Any], where: Path) -> None:
    """Refuse a published setting that cannot be computed here.

    Raises
    ------
    CheckpointError
        It is none of the allowed values.
    """
    choices = list(allowed)
    if settings.get(key) not in choices:
        said = " or ".join(repr(choice) for choice in choices)
        raise CheckpointError(f"{where}: {key} is {settings.get(key)!r}; only {said} can be loaded")


def _arc_encoder(folder: Path, changes: Mapping[str, Any]) -> Recognised | None:
    if not (folder / "config.json").is_file():
        return None
    if "embedder_args" not in read_json(folder / "config.json"):
        return None
    from neural_condense_core.condensers.arc_encoder import ArcConfig

    config = ArcConfig.published(folder / "config.json", changes)
    return Recognised("arc-encoder", config.out_dim, (config.pooling,), config.as_dict())


def _lclm(folder: Path, changes: Mapping[str, Any]) -> Recognised | None:
    if not (folder / "model_config.json").is_file():
        return None
    from neural_condense_core.condensers.lclm import LclmConfig

    config = LclmConfig.published(folder, changes)
    return Recognised("lclm", config.out_dim, (config.ratio,), config.as_dict(), OWN_TARGET)


def _icae(folder: Path, changes: Mapping[str, Any]) -> Recognised | None:
    files = sorted(folder.glob(f"*{WEIGHTS_SUFFIX}"))
    if len(files) != 1:
        return None
    from neural_condense_core.condensers.icae_published import (
        MEMORY_NAME,
        PUBLISHED_VARIANT,
        PublishedConfig,
    )
    from neural_condense_core.condensers.weights import tensor_shapes

    shapes = tensor_shapes(files[0])
    if MEMORY_NAME not in shapes:
        return None
    config = PublishedConfig.parse(dict(changes)).fitted(files[0])
    return Recognised(
        "icae",
        shapes[MEMORY_NAME][1],
        (config.mean_compression_rate,),
        {"variant": PUBLISHED_VARIANT, **config.__dict__},
        weights=files[0].name,
    )


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer of the ``tokenizers`` library; it neither cuts nor pads.

    Raises
    ------
    CheckpointError
        There is none, or it is damaged.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path} is no readable tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def same_tokens(one: Tokenizer, other: Tokenizer) -> bool:
    """Return whether two tokenizers give the same ids, as far as a varied text can tell."""
    found = [each.encode(_PROBE, add_special_tokens=False).ids for each in (one, other)]
    return bool(found[0] == found[1])


def check_ids(contexts: Sequence[Sequence[int]], vocab_size: int, name: str) -> None:
    """Refuse token ids that an encoder does not have.

    Raises
    ------
    RequestError
        An id is out of range.
    """
    for row, ids in enumerate(contexts):
        if min(ids) < 0 or max(ids) >= vocab_size:
            raise RequestError(
                f"a token id is none of {name}'s {vocab_size}; tokenize with {name} itself",
                {"row": row},
            )


def target_source(name: str) -> str:
    """Return where a target model's files are: a folder, or a name on the hub."""
    from neural_condense_core.llm import embedded

    return str(embedded.model_path()) if name == embedded.NAME else name


def target_width(name: str) -> int:
    """Return the hidden size of a target model; reads its configuration, not its weights.

    Raises
    ------
    TargetModelError
        The configuration cannot be found or read.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(target_source(name))
    except (OSError, ValueError, KeyError) as error:
        raise TargetModelError(f"cannot read the configuration of {name!r}: {error}") from error
    return int(config.get_text_config().hidden_size)
