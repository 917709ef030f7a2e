"""How large a policy is, from its config.json alone: parameters by kind, cache and replay per token, activations.

    cache row (numbers a token keeps over all layers) = layers x { 2 KV d_head       grouped-query attention
                                                                 { C + R             MLA as vLLM runs it
                                                                 { C + R + d_I       MLA with indexer (DSA), our model;
                                                                                     in int8 d_I + 4 bytes for its key
    saved     (numbers a token leaves for the backward pass, one layer)
            = 2 n h + attention + MLP,   n: what a norm keeps, in widths of the hidden state
      grouped-query     3 H d + 2 KV d   (+ 2 (H + KV) d with norms of q and k): q, output and its copy for o_proj; k, v
      MLA, expanded     2 Q + 2 H (N + R) + H (N + V) + 2 H V + 3 C
      MLA, absorbed     2 Q + H (N + R) + 3 H (C + R) + H V + 3 (C + R)   (query, output, its concatenation)
      MLP               4 I a layer or shared expert: gate, up, SiLU(gate), product; routed: K (h + 3 I) in our experts,
                        K (2 h + 4 I) in transformers'

Parameters are counted on the meta device by the code that loads them. The saved numbers were counted in the code of
rl.policy and of transformers' layers; docs/cluster.md compares them with what was measured.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rl.policy.flops import EXPERTS, CostModel, is_expert, meta_model
from rl.policy.supported import DSA_ARCHITECTURES

GATHERED_FROM = 1024  # rows of context above which our DSA attention keeps chosen positions and not a mask
FIELDS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
POSITION, MASK = 8, 5  # bytes of a kept position (int64), and of a kept mask's entry (as bool and as float32)


@dataclass(frozen=True)
class LayerSizes:
    """One layer: ``parameters``, those of routed ``experts`` among them, and ``saved`` numbers a token."""

    parameters: int
    experts: int
    saved: int


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of one policy; see the module. Build with ``of``."""

    module: Any  # on the meta device
    cost: CostModel

    @classmethod
    def of(cls, config: Any) -> ModelSizes:
        """From a transformers configuration. Raises ValueError for routed experts whose number it does not name, and
        for a family whose sizes are not known (layers inside of another configuration, or under another name)."""
        kind = f"model_type={config.model_type}"
        if missing := [name for name in FIELDS if getattr(config, name, None) is None]:
            raise ValueError(f"{kind}: its sizes are not known, its config.json has no {missing[0]}")
        module = meta_model(config)
        sizes = cls(module, CostModel.of(config, module))
        if len(sizes.layers) != config.num_hidden_layers:
            raise ValueError(f"{kind}: its sizes are not known, no weight of it is in a layer 'layers.0'")
        return sizes

    @classmethod
    def load(cls, directory: str | Path) -> ModelSizes:
        """From the config.json of a policy directory; nothing else need be there."""
        from transformers import AutoConfig

        return cls.of(AutoConfig.from_pretrained(directory))

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def is_dsa(self) -> bool:
        return self.config.model_type in DSA_ARCHITECTURES

    @cached_property
    def parameters(self) -> int:
        """All of them; a tied embedding once."""
        return sum(p.numel() for p in self.module.parameters())

    @cached_property
    def frozen(self) -> int:
        """Parameters of the DSA indexer: they learn with learner.train_indexer=kl only."""
        return sum(p.numel() for name, p in self.module.named_parameters() if ".indexer." in name)

    def adapter(self, rank: int, modules: Sequence[str] | None = None) -> int:
        """Parameters of a LoRA adapter: r (in + out) of every adapted weight, of every expert's too.

        Raises ValueError as ``rl.policy.lora.adapter_modules``.
        """
        from rl.policy.lora import adapter_modules

        linears, stacked = adapter_modules(self.module, modules, rank)
        weights = dict(self.module.named_parameters())
        shapes = [weights[f"{name}.weight"].shape for name in linears] + [weights[name].shape for name in stacked]
        return sum(int(rank * (shape[-1] + shape[-2]) * shape[:-2].numel()) for shape in shapes)

    @property
    def moe_layers(self) -> int:
        return sum(layer.experts > 0 for layer in self.layers)

    @property
    def experts(self) -> int:
        """Routed experts of a MoE layer; 0: none."""
        return next((getattr(self.config, key) for key in EXPERTS if getattr(self.config, key, None)), 0)

    @property
    def chosen(self) -> int:
        """Routed experts that one token goes to."""
        return int(self.config.num_experts_per_tok) if self.moe_layers else 0

    @cached_property
    def layers(self) -> list[LayerSizes]:
        """Of every layer, in order."""
        total: Counter[int] = Counter()
        routed: Counter[int] = Counter()
        for name, parameter in self.module.named_parameters():
            if found := re.search(r"\.layers\.(\d+)\.", name):
                total[int(found[1])] += parameter.numel()
                routed[int(found[1])] += parameter.numel() if is_expert(name) else 0
        attention = self._attention()
        return [LayerSizes(total[i], routed[i], attention + self._mlp(routed[i] > 0)) for i in sorted(total)]

    @property
    def outside(self) -> int:
        """Parameters of no layer: embedding, head and last norm."""
        return self.parameters - sum(layer.parameters for layer in self.layers)

    @property
    def largest(self) -> LayerSizes:
        return max(self.layers, key=lambda layer: layer.parameters)

    def norms(self, width: int) -> int:
        """Numbers that the two norms of a layer keep of a token, in a dtype of ``width`` bytes.

        Input, normalised input and output; the input once more where it is cast to float32. Our own norm keeps no
        normalised input.
        """
        return int(2 * self.config.hidden_size * ((2 if self.is_dsa else 3) + (width < 4)))

    def choices(self, context: int) -> float:
        """Bytes that DSA keeps of a token's choice of rows in one layer, for sequences of ``context`` tokens."""
        if not self.is_dsa or context <= self.config.index_topk:
            return 0.0
        if context > GATHERED_FROM:
            return float(self.config.index_topk * POSITION)
        return context / 2 * MASK

    @property
    def gathered_row(self) -> int:
        """Numbers of a token in one layer that ranks which share a micro-batch gather of each other: what queries
        attend to, and the indexer's key."""
        c = self.config
        if self.is_dsa:
            return int(c.kv_lora_rank + c.qk_rope_head_dim + c.index_head_dim)
        if getattr(c, "kv_lora_rank", None):  # MLA, expanded
            return int(c.num_attention_heads * (c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim))
        return 2 * self._kv_heads * self._head_dim

    def cache_row(self, width: int) -> int:
        """Bytes in the engine's cache for one token, all layers; ``width``: of a number there."""
        c = self.config
        if getattr(c, "kv_lora_rank", None):
            latent = width * (c.kv_lora_rank + c.qk_rope_head_dim)
            return int(c.num_hidden_layers * (latent + (self._index_key(width) if self.is_dsa else 0)))
        return int(c.num_hidden_layers * 2 * self._kv_heads * self._head_dim * width)

    def cache_split(self, tensor_parallel: int) -> int:
        """Over how many of ``tensor_parallel`` GPUs a row of the cache is cut: by key-value heads; MLA's latent has
        one, so every GPU keeps all of it."""
        return 1 if getattr(self.config, "kv_lora_rank", None) else min(tensor_parallel, self._kv_heads)

    def read_row(self, context: float, width: int) -> float:
        """Bytes that one new token reads in the cache when ``context`` rows are there, all layers.

        DSA: the indexer's key of every row, the latent of the chosen ones.
        """
        if not self.is_dsa:
            return self.cache_row(width) * context
        c = self.config
        chosen = min(context, c.index_topk) * (c.kv_lora_rank + c.qk_rope_head_dim) * width
        return float(c.num_hidden_layers * (chosen + context * self._index_key(width)))

    def _index_key(self, width: int) -> int:
        """Bytes of an indexer's key in the cache of our engine (``rl.rollout.paged_keys``)."""
        import torch

        from rl.policy.index_precision import rounds
        from rl.rollout.paged_keys import key_width

        dtype = torch.float32 if width == 4 else torch.bfloat16
        return width * key_width(self.config.index_head_dim, rounds(self.config), dtype)

    def replay_row(self, indexer: bool) -> int:
        """Bytes of the recorded choices of one token, in engine and learner."""
        expert = 1 if self.experts <= 256 else 2
        position = 2 if self.config.max_position_embeddings <= 32767 else 4
        rows = self.moe_layers * self.chosen * expert
        if indexer and self.is_dsa:
            rows += self.module.num_indexers * self.config.index_topk * position
        return int(rows)

    @property
    def _head_dim(self) -> int:
        c = self.config
        return int(getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads)

    @property
    def _kv_heads(self) -> int:
        c = self.config
        return int(getattr(c, "num_key_value_heads", None) or c.num_attention_heads)

    def _attention(self) -> int:
        c, heads = self.config, self.config.num_attention_heads
        if not getattr(c, "kv_lora_rank", None):
            d, kv = self._head_dim, self._kv_heads
            normed = any(name.endswith("self_attn.q_norm.weight") for name, _ in self.module.named_parameters())
            return int((3 * heads + 2 * kv) * d + (2 * (heads + kv) * d if normed else 0))
        query, latent = c.q_lora_rank or 0, c.kv_lora_rank
        nope, rope, value = c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim
        if self.is_dsa:
            row = latent + rope
            return int(2 * query + heads * (nope + rope) + 3 * heads * row + heads * value + 3 * row)
        return int(2 * query + heads * (2 * (nope + rope) + nope + value + 2 * value) + 3 * latent)

    def _mlp(self, sparse: bool) -> int:
        c = self.config
        if not sparse:
            return int(4 * c.intermediate_size)
        inner, hidden = c.moe_intermediate_size, c.hidden_size
        routed = c.num_experts_per_tok * (hidden + 3 * inner if self.is_dsa else 2 * hidden + 4 * inner)
        return int(routed + 4 * inner * (getattr(c, "n_shared_experts", None) or 0))
