"""FLOPs of the policy, by arithmetic from its configuration.

    forward(token that sees c rows) = 2 N + 2 A min(c, k) + 2 I c        training = 3 x forward

N: parameters that act on one token (routed experts by top-k of all; no embedding, a lookup). A and I: multiply-adds
of one (query, row) pair over all layers. MLA in its absorbed form reads latent and rope part for the scores and the
latent again for the values; the lightning indexer has H_I heads of width d_I and sums them (V3.2 eq. 1-2, section 2.3):

    A = layers H (2 C + R)            I = indexers H_I (d_I + 1)

k = index_topk; a dense pass, or a model without indexer, attends to all c rows (its A = layers H 2 d_head, I = 0).
2 N and 6 N per token are the usual estimate (Kaplan et al. 2020, arXiv 2001.08361; PaLM, arXiv 2204.02311, app. B,
adds the attention). Left out: norms, softmax, sampling, the optimiser. Counted too high: the output layer for every
token (engines run it for sampled ones only), and a frozen indexer in training as if it learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl.policy.supported import DSA_ARCHITECTURES

# Names of the number of routed experts in the configurations of Hugging Face models.
EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts")


@dataclass(frozen=True)
class Work:
    """Tokens that went through the model once: how many, and the (query, row) pairs they attended to and scored."""

    tokens: float = 0.0
    attended: float = 0.0
    scored: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.attended + other.attended, self.scored + other.scored)

    def scaled(self, tokens: float) -> Work:
        """As many ``tokens`` with the same mean context."""
        share = tokens / self.tokens if self.tokens else 0.0
        return Work(tokens, self.attended * share, self.scored * share)


@dataclass(frozen=True)
class CostModel:
    """What one token costs; see the module. ``topk`` None: every row is attended to."""

    parameters: int
    attention: int
    indexer: int = 0
    topk: int | None = None

    @classmethod
    def of(cls, config: Any, module: Any = None) -> CostModel:
        """From a transformers configuration; no weight is allocated. ``module``: ``meta_model(config)``, if there."""
        if module is None:
            module = meta_model(config)
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        parameters = active_parameters(module)
        if config.model_type in DSA_ARCHITECTURES:
            row = 2 * config.kv_lora_rank + config.qk_rope_head_dim
            indexer = module.num_indexers * config.index_n_heads * (config.index_head_dim + 1)
            return cls(parameters, layers * heads * row, indexer, config.index_topk)
        if config.model_type == "deepseek_v3":  # MLA, expanded: keys and values of different widths
            return cls(parameters, layers * heads * (config.qk_head_dim + config.v_head_dim))
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(parameters, layers * heads * 2 * head_dim)

    @classmethod
    def load(cls, directory: str | Path) -> CostModel:
        """From the config.json of a policy directory."""
        from transformers import AutoConfig

        return cls.of(AutoConfig.from_pretrained(directory))

    def at(self, contexts: np.ndarray | Sequence[int], *, dense: bool = False) -> Work:
        """Tokens that see ``contexts`` rows each, themselves included."""
        c = np.asarray(contexts, dtype=np.float64)
        attended = c if dense or self.topk is None else np.minimum(c, self.topk)
        return Work(float(len(c)), float(attended.sum()), float(c.sum()))

    def sequence(self, length: int, *, dense: bool = False) -> Work:
        """A whole sequence of ``length`` tokens."""
        return self.at(np.arange(1, length + 1), dense=dense)

    def forward(self, work: Work) -> float:
        """FLOPs of one forward pass."""
        return 2.0 * (self.parameters * work.tokens + self._pairs(work))

    def training(self, work: Work) -> float:
        """FLOPs of forward and backward pass."""
        return 3.0 * self.forward(work)

    def supervised(self, figures: Mapping[str, Any]) -> float:
        """FLOPs of a supervised stage from its figures (``card.json``, ``coldstart.json``).

        ``flops`` there is 6 N per trained token; the attention is added here for documents of their mean length
        (``corpus_tokens / documents``), the first ``dense_steps`` of all steps with dense attention.
        """
        tokens = float(figures["trained_tokens"])
        length = round(figures["corpus_tokens"] / figures["documents"])
        dense, sparse = figures.get("dense_steps", 0), figures.get("sparse_steps", figures.get("steps", 0))
        share = dense / (dense + sparse)
        work = self.sequence(length, dense=True).scaled(tokens * share) + self.sequence(length).scaled(
            tokens * (1 - share)
        )
        return float(figures["flops"]) + 6.0 * self._pairs(work)

    def _pairs(self, work: Work) -> float:
        """Multiply-adds of the attention and of the indexer's scores."""
        return self.attention * work.attended + self.indexer * work.scored


def meta_model(config: Any) -> Any:
    """The causal LM of a transformers configuration on the meta device: names and shapes, no weights."""
    from rl.policy.meta import on_meta

    with on_meta():
        if config.model_type in DSA_ARCHITECTURES:
            from rl.policy.model import DSAForCausalLM

            return DSAForCausalLM(config)
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_config(config)


def is_expert(name: str) -> bool:
    """Whether the parameter ``name`` belongs to a routed expert."""
    return ".mlp.experts." in name or ".block_sparse_moe.experts." in name


def active_parameters(module: Any) -> int:
    """Parameters of a causal LM that act on one token: no idle experts, no embedding (a lookup; tied, it is the head).

    Raises ValueError when the model has routed experts and its config does not say how many.
    """
    config = module.config
    total = 0
    for name, parameter in module.named_parameters():
        share = 1.0
        if is_expert(name):
            experts = next((getattr(config, key) for key in EXPERTS if getattr(config, key, None)), None)
            if experts is None:
                raise ValueError(f"'{name}' is an expert, but the model's config has none of {', '.join(EXPERTS)}")
            share = config.num_experts_per_tok / experts
        elif "embed_tokens" in name and not config.tie_word_embeddings:
            share = 0.0
        total += int(parameter.numel() * share)
    return total
