"""The protocol that the learner uses for every policy, and the ways to get one.

policy = build_policy({"preset": "tiny_dsa", "vocab_size": 1024, "seed": 0})
logits = policy.packed_logits(tokens_T, [0, n1, n1 + n2])          # [T, V]
policy.save(directory); policy = load_policy(directory)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from rl.policy.context import AttentionMode, PackedContext
from rl.policy.model import DSAForCausalLM
from rl.policy.replay import Record, Replay

CuSeqlens = Sequence[int] | Tensor


class Policy(Protocol):
    """A causal language model on packed sequences. ``mode`` is "dense" for models without an indexer."""

    @property
    def module(self) -> nn.Module:
        """Holds the parameters."""
        ...

    mode: AttentionMode
    vocab_size: int
    num_experts: int  # 0 for dense models
    num_moe_layers: int  # 0 for dense models

    def packed_logits(
        self,
        tokens_T: Tensor,
        cu_seqlens: CuSeqlens,
        replay: Replay | None = None,
        record: Record | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Logits [T, V] of int64 tokens [T]; with ``rows`` int64 [N] only those positions, [N, V]."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def weights(self) -> dict[str, Tensor]:
        """Everything an engine needs to copy, by in-memory name; detached, not cloned."""
        ...

    def update_router_bias(self, counts: Tensor, gamma: float) -> None:
        """Aux-loss-free balancing; ``counts`` [L_moe, E]. For pre-training and cold start only."""
        ...

    def save(self, directory: str | Path) -> None: ...


class DSAPolicy:
    """The DSA/MoE policy of ``rl.policy.model`` behind the Policy protocol.

    ``mode`` "sparse" is V3.2; "dense" attends to everything (indexer warm-up, before adaptation).
    """

    def __init__(self, module: DSAForCausalLM, mode: AttentionMode = "sparse") -> None:
        if mode not in ("dense", "sparse"):
            raise ValueError(f"policy.mode is {mode!r}; expected 'dense' or 'sparse'")
        self.module = module
        self.mode: AttentionMode = mode
        self.vocab_size = module.config.vocab_size
        self.num_experts, self.num_moe_layers = module.num_experts, module.num_moe_layers

    def packed_logits(
        self,
        tokens_T: Tensor,
        cu_seqlens: CuSeqlens,
        replay: Replay | None = None,
        record: Record | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        ctx = PackedContext(cu_seqlens, mode=self.mode, device=tokens_T.device)
        if ctx.bounds[-1] != len(tokens_T):
            raise ValueError(f"cu_seqlens ends at {ctx.bounds[-1]} but there are {len(tokens_T)} tokens")
        hidden = self.module.hidden(tokens_T, ctx, replay, record)
        return self.module.logits(hidden if rows is None else hidden[rows])

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.module.named_parameters()

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.module.state_dict().items()}

    def update_router_bias(self, counts: Tensor, gamma: float) -> None:
        """Aux-loss-free balancing; ``counts`` [L_moe, E]. For pre-training and cold start only."""
        self.module.update_router_bias(counts, gamma)

    def set_index_topk(self, k: int) -> None:
        """Rows each query attends to in sparse mode, in every layer; stored with the policy."""
        self.module.config.index_topk = k
        for layer in self.module.decoder_layers:
            layer.self_attn.spec = replace(layer.self_attn.spec, topk=k)

    def reset_indexer(self, seed: int) -> None:
        """Fresh random indexer weights (a dense checkpoint's never learned); nothing else changes."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for layer in self.module.decoder_layers:
                layer.self_attn.indexer.apply(self.module._init_weights)
                layer.self_attn.indexer.k_norm.reset_parameters()

    def save(self, directory: str | Path) -> None:
        from rl.policy.io import save_dsa

        save_dsa(self.module, directory)


def build_policy(cfg: Mapping[str, Any]) -> Policy:
    """A policy from a config mapping.

    Either ``path`` (a checkpoint directory), or ``preset`` + ``vocab_size`` (+ ``overrides``, fields of
    DeepseekV32Config; ``seed``). ``mode``: "sparse" (default) or "dense", for DSA policies.
    """
    allowed = {"path", "preset", "vocab_size", "overrides", "seed", "mode"}
    unknown = sorted(set(cfg) - allowed)
    if unknown:
        raise ValueError(f"policy config has unknown keys {unknown}; allowed: {sorted(allowed)}")
    mode = cast(AttentionMode, cfg.get("mode") or "sparse")
    if cfg.get("path"):
        return load_policy(cfg["path"], mode=mode)
    from rl.policy.presets import PRESETS

    preset = cfg.get("preset")
    if preset not in PRESETS:
        raise ValueError(f"policy.preset is {preset!r}; expected one of {sorted(PRESETS)}, or set policy.path")
    if not cfg.get("vocab_size"):
        raise ValueError("policy.vocab_size is missing; set it to the tokenizer's size")
    config = PRESETS[preset](vocab_size=int(cfg["vocab_size"]), **dict(cfg.get("overrides") or {}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(cfg.get("seed") or 0))
        return DSAPolicy(DSAForCausalLM(config), mode)


def load_policy(directory: str | Path, mode: AttentionMode = "sparse") -> Policy:
    """The policy stored in ``directory``: DSA if config.json says deepseek_v32, else a Hugging Face model."""
    config_file = Path(directory) / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"{config_file} does not exist; expected a checkpoint directory")
    if json.loads(config_file.read_text())["model_type"] == "deepseek_v32":
        from rl.policy.io import load_dsa

        return DSAPolicy(load_dsa(directory), mode)
    from rl.policy.hf import HFPolicy

    return HFPolicy.load(directory)
