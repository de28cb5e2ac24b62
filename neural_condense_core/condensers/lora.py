"""LoRA adapters on copies of a target's layers, by peft."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, inject_adapter_in_model

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_lora(decoder: Any, rank: int, alpha: int) -> Any:
    """Add float32 LoRA adapters to every linear layer; all else stays frozen.

    Parameters
    ----------
    decoder : copies of layers (``HFTarget.first_layers``), changed in place
    rank, alpha : the adapters' rank and scale (their product is scaled by alpha / rank)

    References
    ----------
    LoRA, arXiv:2106.09685 sec. 4.1.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LINEAR_LAYERS))
    adapted = inject_adapter_in_model(config, decoder)
    for parameter in adapted.parameters():
        if parameter.requires_grad:  # peft makes adapters in the dtype of the layers
            parameter.data = parameter.data.float()
    return adapted
