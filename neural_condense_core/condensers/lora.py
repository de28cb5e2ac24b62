"""LoRA adapters on copies of a target's layers, by peft."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_lora(decoder: Any, rank: int, alpha: int, *, first_layer: int = 0) -> Any:
    """Add float32 LoRA adapters to the linear layers; all else stays frozen.

    Parameters
    ----------
    decoder : copies of layers (``HFTarget.first_layers``), changed in place
    rank, alpha : the adapters' rank and scale (their product is scaled by alpha / rank)
    first_layer : layers below it stay as they are

    References
    ----------
    LoRA, arXiv:2106.09685 sec. 4.1.
    """
    layers = "|".join(str(i) for i in range(first_layer, len(decoder.layers)))
    names = "|".join(LINEAR_LAYERS)
    pattern = rf"layers\.({layers})\..*\.({names})"  # peft matches it as a whole
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=pattern)
    adapted = inject_adapter_in_model(config, decoder)
    for parameter in adapted.parameters():
        if parameter.requires_grad:  # peft makes adapters in the dtype of the layers
            parameter.data = parameter.data.float()
    return adapted


def merge_lora(module: nn.Module) -> None:
    """Add every adapter to the weights it adapts: the same but for rounding, with fewer products.

    For use, not for training: the adapters stay where they are, but no longer see a gradient.
    """
    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            layer.merge()
