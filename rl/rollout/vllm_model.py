"""vLLM's side of the DSA policy: the policy's own torch modules, driven over vLLM's paged cache.

``DSAForVLLM`` is what vLLM instantiates for ``DSA_ARCHITECTURES``. All its weights are plain
parameters of ``rl.policy.model.DSAForCausalLM`` (embedding and head included), so a weight update is
``param.copy_`` and nothing else. Each layer hands vLLM a cache specification (one row of latent + rope key
+ indexer key per token) and an attention backend whose only work is to turn vLLM's batch description into
``PagedContext`` buckets.

Experts are kept in a side table indexed by cache slot, so that a prefix-cache hit finds the routes
of the tokens it did not compute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import nn
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionMetadataBuilder,
    CommonAttentionMetadata,
    MultipleOf,
)
from vllm.v1.kv_cache_interface import KVCacheSpec, MLAAttentionSpec
from vllm.v1.kv_cache_layout import KVCacheLayout

from rl.policy.batch_invariance import filled, make_invariant
from rl.policy.dtypes import keep_float32
from rl.policy.index_precision import rounds
from rl.policy.io import stack_experts
from rl.policy.layers import RMSNorm
from rl.policy.model import DSAForCausalLM
from rl.policy.replay import Record
from rl.policy.supported import dsa_config
from rl.rollout.paged import LayerCache, PagedContext
from rl.rollout.paged_keys import key_width
from rl.rollout.paged_plan import Plan, plan_step


@dataclass
class PagedMetadata:
    """One step: the slots its T tokens go to (long [T]), and who answers its queries."""

    slots: torch.Tensor
    plan: Plan


class PagedMetadataBuilder(AttentionMetadataBuilder[PagedMetadata]):
    """vLLM's batch description -> ``PagedMetadata``, once a step for all layers."""

    reorder_batch_threshold: int | None = 1  # decodes first: they are then one contiguous bucket

    def __init__(
        self,
        kv_cache_spec: KVCacheSpec,
        layer_names: list[str],
        vllm_config: VllmConfig,
        device: torch.device,
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        config = vllm_config.model_config.hf_config
        self.heads = max(config.num_attention_heads, config.index_n_heads)
        self.singly = (
            device.type == "cpu"
            and vllm_config.model_config.dtype == torch.float32
            and kv_cache_spec.block_size % 8 == 0  # as many keys are multiplied at once
        )
        self.invariant = False  # see DSAForVLLM.make_invariant

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> PagedMetadata:
        batch = common_attn_metadata
        n, tokens = batch.num_reqs, batch.num_actual_tokens
        plan = plan_step(
            batch.query_start_loc_cpu[: n + 1].tolist(),
            batch.seq_lens[:n].tolist(),
            batch.block_table_tensor[:n],
            self.kv_cache_spec.block_size,
            self.heads,
            singly=self.singly,
            invariant=self.invariant,
        )
        return PagedMetadata(batch.slot_mapping[:tokens].long(), plan)


class PagedBackend(AttentionBackend):
    """Names the metadata builder to vLLM. There is no attention impl: ``PagedContext`` attends."""

    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float32, torch.bfloat16, torch.float16]

    @staticmethod
    def get_name() -> str:
        return "SPECIALE_DSA"

    @staticmethod
    def get_impl_cls() -> type:
        raise NotImplementedError("DSA layers attend through rl.rollout.paged.PagedContext")

    @staticmethod
    def get_builder_cls() -> type[PagedMetadataBuilder]:
        return PagedMetadataBuilder

    @staticmethod
    def get_supported_kernel_block_sizes(kv_cache_spec: KVCacheSpec | None = None) -> list[int | MultipleOf]:
        return [MultipleOf(1)]

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        return (KVCacheLayout.LBHNC,)


class PagedLayer(AttentionLayerBase):
    """One layer as vLLM's cache manager sees it: a name and a cache row size.

    The same for all layers, so that they are one group: one that borrows its choice leaves the indexer's part unused.
    """

    def __init__(self, name: str, config: Any, vllm_config: VllmConfig) -> None:
        self.index_dim, self.rounded = config.index_head_dim, rounds(config)
        self.dtype = cast(torch.dtype, vllm_config.model_config.dtype)
        key = key_width(self.index_dim, self.rounded, self.dtype)
        self.row = config.kv_lora_rank + config.qk_rope_head_dim + key
        self.cache: LayerCache  # set by bind_kv_cache, before the first step
        context = vllm_config.compilation_config.static_forward_context
        if name in context:
            raise ValueError(f"attention layer {name!r} is registered twice in this vLLM configuration")
        context[name] = self

    def get_attn_backend(self) -> type[AttentionBackend]:
        return PagedBackend

    def get_kv_cache_spec(self, vllm_config: VllmConfig) -> KVCacheSpec:
        return MLAAttentionSpec(
            block_size=vllm_config.cache_config.block_size,
            num_kv_heads=1,
            head_size=self.row,
            dtype=self.dtype,
        )

    def bind_kv_cache(self, kv_cache: torch.Tensor) -> None:
        self.kv_cache = kv_cache
        self.cache = LayerCache(kv_cache, self.index_dim, self.rounded)


def call_directly(model: nn.Module) -> None:
    """Linear layers and norms below ``model`` are called without what ``nn.Module`` does at each call: for the few rows
    of a decode step that is as much work as theirs. Parameters and their names stay as they are."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                called: Any = partial(F.linear, weight=child.weight, bias=child.bias)
                called.weight = child.weight
                module.__dict__[name] = called
            elif type(child) is RMSNorm:
                module.__dict__[name] = child.forward


class DSAForVLLM(nn.Module):
    """``DSAForCausalLM`` behind vLLM's model interface.

    ``experts_table`` [slots, L_moe, K] uint8 (int16 above 256 experts): experts that the forward pass of
    the token now at that cache slot chose. ``indexer_table`` [slots, indexers, k] int16 (int32 for contexts above
    32,767): positions its indexers chose, -1 = unused, filled while ``record_indexer`` is True.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config = dsa_config(vllm_config.model_config.model)
        parallel = vllm_config.parallel_config
        if parallel.tensor_parallel_size * parallel.pipeline_parallel_size != 1:
            raise ValueError(
                f"tensor_parallel_size={parallel.tensor_parallel_size}, "
                f"pipeline_parallel_size={parallel.pipeline_parallel_size}: the torch DSA backend runs "
                "on one rank; add rollout workers instead, or use the native backend"
            )
        self.dsa = DSAForCausalLM(self.config).requires_grad_(False)
        keep_float32(self.dsa)  # vLLM makes it under the engine's dtype
        call_directly(self.dsa)
        for layer in self.dsa.decoder_layers:
            if layer.self_attn.indexer is not None:
                layer.self_attn.indexer.rounds = False  # the cache rounds keys, the context queries
        self.layers = [
            PagedLayer(f"model.layers.{i}.self_attn", self.config, vllm_config)
            for i in range(self.config.num_hidden_layers)
        ]
        self.experts_table: torch.Tensor | None = None  # made when the cache is there
        self.indexer_table: torch.Tensor | None = None  # set by make_indexer_table
        self.record_indexer = False
        self.invariant = False

    def make_invariant(self, builders: Iterable[PagedMetadataBuilder]) -> None:
        """From now on nothing depends on what else is computed (``rl.policy.batch_invariance``). ``builders``: those of
        the model's layers."""
        self.invariant = True
        make_invariant(self.dsa)
        for builder in builders:
            builder.invariant = True

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.dsa.model.embed_tokens(input_ids)
        return embedded

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Hidden states [T, hidden] of the step's tokens; outside a step (profiling) zeros."""
        metadata = get_forward_context().attn_metadata
        if metadata is None:
            return self.dsa.lm_head.weight.new_zeros(len(input_ids), self.config.hidden_size)
        step = cast(PagedMetadata, next(iter(cast(dict[str, Any], metadata).values())))
        tokens = len(step.slots)
        ids, positions = input_ids[:tokens].long(), positions[:tokens].long()
        if self.invariant:
            ids, positions = filled(ids), filled(positions)
        context = PagedContext(positions, step.slots, step.plan, [x.cache for x in self.layers])
        record = Record(want_experts=self.dsa.num_moe_layers > 0, want_indexer=self.record_indexer)
        hidden = self.dsa.hidden(ids, context, record=record)[:tokens]
        if record.want_experts:
            table = self.make_experts_table()
            table[step.slots] = record.experts[:tokens].to(table.dtype)
        if self.record_indexer and self.indexer_table is not None:
            self.indexer_table[step.slots] = record.indexer[:tokens].to(self.indexer_table.dtype)
        if tokens < len(input_ids):
            hidden = torch.cat((hidden, hidden.new_zeros(len(input_ids) - tokens, hidden.shape[1])))
        return hidden

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self.invariant:
            return self.dsa.logits(hidden_states)
        return self.dsa.logits(filled(hidden_states))[: len(hidden_states)]

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Checkpoint tensors (experts stacked or one by one) -> parameters; returns their names."""
        self.copy_weights(dict(stack_experts(weights)))
        return {name for name, _ in self.named_parameters()}

    def check_weights(self, shapes: Mapping[str, torch.Size]) -> None:
        """Raise ValueError unless tensors of these ``shapes`` fill the model; names what is missing, unknown or
        misshapen."""
        own = self.dsa.state_dict()
        tied = {"lm_head.weight"} if self.config.tie_word_embeddings else set()
        missing, unknown = sorted(own.keys() - shapes.keys() - tied), sorted(shapes.keys() - own.keys())
        if missing or unknown:
            raise ValueError(
                f"weights do not fit the policy: missing {missing[:5]} ({len(missing)}), "
                f"unknown {unknown[:5]} ({len(unknown)}); publish the state dict of the same configuration"
            )
        for name, target in own.items():
            if name in shapes and shapes[name] != target.shape:
                raise ValueError(f"{name}: shape {tuple(shapes[name])}, the engine has {tuple(target.shape)}")

    @torch.no_grad()
    def copy_weights(self, named: Mapping[str, torch.Tensor]) -> None:
        """In place, all or nothing by name. Errors: missing, unknown and misshapen tensors, by name."""
        self.check_weights({name: value.shape for name, value in named.items()})
        for name, target in self.dsa.state_dict().items():
            if name in named:
                target.copy_(named[name])

    def make_experts_table(self) -> torch.Tensor:
        """The table, made on the first call: the cache must be allocated."""
        if self.experts_table is None:
            dtype = torch.uint8 if self.config.n_routed_experts <= 256 else torch.int16
            shape = self.layers[0].cache.num_slots, self.dsa.num_moe_layers, self.config.num_experts_per_tok
            self.experts_table = torch.zeros(shape, dtype=dtype)
        return self.experts_table

    def make_indexer_table(self, max_model_len: int) -> None:
        """Once the cache is allocated. Memory that no token's slot uses is never touched."""
        dtype = torch.int16 if max_model_len <= torch.iinfo(torch.int16).max else torch.int32
        shape = self.layers[0].cache.num_slots, self.dsa.num_indexers, self.config.index_topk
        self.indexer_table = torch.zeros(shape, dtype=dtype)
