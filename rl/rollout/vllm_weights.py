"""Weight updates for models that vLLM itself defines (Llama, Qwen, ...).

vLLM's CPU layers copy their weights into kernel-specific buffers after loading and drop the originals; an
update in place then changes nothing, or half of the model. We keep the weights plain (``F.linear`` reads
the parameter at every call), so that an update is the model's own ``load_weights`` into the live
parameters, stacked ones included.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def keep_weights_plain() -> None:
    """Make vLLM's CPU layers use their parameters directly. Call before the engine loads a model."""
    from vllm.model_executor.layers import utils

    def plain(layer: nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = F.linear  # type: ignore[assignment]

    utils.dispatch_cpu_unquantized_gemm = plain


def checkpoint_names(model_dir: str | Path) -> set[str]:
    """Names of the checkpoint's tensors that its model uses: what a full update has to bring.

    Files hold more than that: rotary buffers of old versions, heads for multi-token prediction.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from rl.policy.checkpoint_files import CheckpointFiles
    from rl.policy.io import unstack_experts

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(model_dir)))
    return set(CheckpointFiles(model_dir).names) & unstack_experts(model.state_dict()).keys()


def update_model(model: Any, named: Mapping[str, torch.Tensor], expected: set[str]) -> None:
    """The learner's state dict -> the live parameters of an engine's model, ours or vLLM's own; ``expected``: as for
    ``load_plain_weights``. Errors: missing, unknown or misshapen tensors, by name."""
    if hasattr(model, "copy_weights"):
        model.copy_weights(named)
        return
    from rl.policy.io import unstack_experts

    load_plain_weights(model, unstack_experts(named), expected)


@torch.no_grad()
def load_plain_weights(model: Any, named: Mapping[str, torch.Tensor], expected: set[str]) -> None:
    """HF-named tensors -> the live parameters of a vLLM model, in place. Errors: missing names.

    ``expected``: the checkpoint's names. Stacked parameters (q, k, v in one) hide a missing part from
    vLLM's own account, so the names are checked before anything is written.
    """
    missing = sorted(expected - named.keys())
    if missing:
        raise ValueError(
            f"weight update: missing {missing[:5]} ({len(missing)}); publish every tensor of the checkpoint"
        )
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    loaded = model.load_weights(iter(named.items()))
    untouched = sorted(before.keys() - loaded)
    moved = sorted(n for n, p in model.named_parameters() if p.data_ptr() != before[n])
    if untouched or moved:
        raise RuntimeError(
            f"weight update did not fill the engine's parameters: untouched {untouched[:5]}, replaced {moved[:5]}"
        )
