"""Hugging Face causal LMs behind the Policy protocol: dense ones (Llama, Qwen, SmolLM2 ...) and the mixture-of-experts
families of ``rl.policy.hf_moe``.

Packed sequences become right-padded batches of similar length: under causal attention a real token
never sees the padding after it, so no mask is needed and positions are a plain range. A prefix tree is one pass over
its nodes (``rl.policy.tree_attention``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from rl.policy.api import CuSeqlens
from rl.policy.attention_context import AttentionMode, cu_bounds
from rl.policy.checkpoint_files import CheckpointError, check_one_reading
from rl.policy.context_parallel import RowSplit
from rl.policy.hf_moe import GATES, PackedRouting, Routing
from rl.policy.meta import on_meta
from rl.policy.ops.operators import TORCH, Operators
from rl.policy.prefix_tree import PrefixTree
from rl.policy.replay import Record, Replay
from rl.policy.sharding import splits
from rl.policy.supported import unsupported
from rl.policy.tree_attention import TreeAttention, again, attending, can_share
from rl.policy.weight_files import write_weights
from rl.policy.weight_plan import Given
from rl.policy.weight_source import WeightSource

CALL = 64  # tokens that cost about as much as one more pass over all weights and their gradients does


class HFPolicy:
    """``module`` is a transformers ``*ForCausalLM``; dense ones have nothing to replay."""

    def __init__(self, module: Any) -> None:
        config = module.config
        if why := unsupported(config.to_dict()):
            raise ValueError(why)
        self.module: nn.Module = module
        module.hidden = MethodType(_hidden, module)
        self.vocab_size = config.vocab_size
        self.mode: AttentionMode = "dense"
        self.num_experts = self.num_moe_layers = 0
        self.recompute = False
        self.ops = TORCH
        self._can_share = can_share(module.base_model)
        self.routing: Routing | None = None
        if config.model_type in GATES:
            self.routing = Routing(module, config.model_type)
            self.num_moe_layers = len(self.routing.routers)
            self.num_experts = int(getattr(config, "n_routed_experts", None) or config.num_experts)

    @classmethod
    def load(cls, directory: str | Path) -> HFPolicy:
        """The model of ``directory`` in float32, whatever it is stored in."""
        from transformers import AutoModelForCausalLM

        check_one_reading(Path(directory))
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(directory),
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
        model, found = loaded
        if wrong := sorted(found["missing_keys"]) or sorted(map(str, found["mismatched_keys"])):
            raise CheckpointError(f"weights in {directory} do not match config.json: {wrong[:3]} ({len(wrong)})")
        return cls(model)

    @classmethod
    def empty(cls, directory: str | Path) -> HFPolicy:
        """The same on the meta device, without its weights."""
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(str(directory))
        with on_meta():
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        return cls(model.eval())

    def packed_logits(
        self,
        tokens_T: Tensor,
        cu_seqlens: CuSeqlens,
        replay: Replay | None = None,
        record: Record | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Logits [T, V] (or [N, V] for ``rows``). Experts are replayed and recorded where there are any; there is no
        indexer."""
        return self.logits(self.packed_hidden(tokens_T, cu_seqlens, replay, record, rows))

    def packed_hidden(
        self,
        tokens_T: Tensor,
        cu_seqlens: CuSeqlens,
        replay: Replay | None = None,
        record: Record | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        indexer = (replay is not None and replay.indexer is not None) or (
            record is not None and (record.want_indexer or record.want_indexer_kl != "off")
        )
        if indexer or (replay is not None and self.routing is None):
            raise ValueError(f"{type(self.module).__name__} has no {'indexer' if indexer else 'expert'} choices")
        if isinstance(cu_seqlens, RowSplit):
            split = cu_seqlens
            self._check_shares()
            hidden = self._run_nodes(tokens_T, split, split.depth_R, replay, record, rows)
            split.finish(record)
            return hidden
        bounds = cu_bounds(cu_seqlens)
        if bounds[-1] != len(tokens_T):
            raise ValueError(f"cu_seqlens ends at {bounds[-1]} but there are {len(tokens_T)} tokens")
        once = splits(self.module)
        if once and self.shares_prefixes and not isinstance(cu_seqlens, PrefixTree):
            cu_seqlens = PrefixTree(bounds, [0] * (len(bounds) - 1), tokens_T.device)
        if not isinstance(cu_seqlens, PrefixTree):
            return self._run(tokens_T, _padded(bounds, tokens_T.device, once), replay, record, rows)
        self._check_shares()
        tree = cu_seqlens
        wanted = tree.node_T if rows is None else tree.node_T[rows]
        hidden = self._run_nodes(tokens_T[tree.first_U], tree, tree.depth_U, tree.replay(replay), record, wanted)
        tree.finish(record)
        return hidden

    def _check_shares(self) -> None:
        if not self.shares_prefixes:
            raise ValueError(f"{type(self.module).__name__} cannot compute prefix trees: give it the bounds alone")

    def _run_nodes(
        self,
        tokens_U: Tensor,
        tree: PrefixTree | RowSplit,
        depth_U: Tensor,
        replay: Replay | None,
        record: Record | None,
        rows: Tensor | None,
    ) -> Tensor:
        """One pass over the nodes of ``tree``, or those of them that are this rank's."""
        index = torch.arange(len(tokens_U), device=tokens_U.device)[None]
        with attending(self.module.config, TreeAttention(tree)):
            return self._run(tokens_U, [(index, index >= 0)], replay, record, rows, position_ids=depth_U[None])

    def _run(
        self,
        tokens_T: Tensor,
        batches: Iterable[tuple[Tensor, Tensor]],
        replay: Replay | None,
        record: Record | None,
        rows: Tensor | None,
        **how: Tensor,
    ) -> Tensor:
        """Hidden states [T, hidden] (or [N, hidden] for ``rows``) by forward passes over ``batches``: int64 [B, W],
        places in ``tokens_T``, each of them once where bool [B, W]."""
        routed = PackedRouting(self.num_moe_layers, replay)
        hidden_parts, index_parts = [], []
        for index, real in batches:
            batch = tokens_T[index.clamp_max(len(tokens_T) - 1)]
            with nullcontext() if self.routing is None else self.routing.run(routed.bucket(index, real)) as done:
                hidden = self.module.hidden(input_ids=batch, use_cache=False, **how)  # type: ignore[operator]
            if done is not None:
                routed.take(done, real)
            hidden_parts.append(hidden[real])
            index_parts.append(index[real])
        order = torch.cat(index_parts).argsort()
        if self.routing is not None:
            routed.finish(replay, record, order)
        return torch.cat(hidden_parts)[order if rows is None else order[rows]]

    @property
    def layers(self) -> list[nn.Module]:
        return list(self.module.base_model.layers)  # type: ignore[union-attr,arg-type]

    def logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.module.get_output_embeddings()(hidden)  # type: ignore[operator]
        return logits

    def head_weight(self) -> Tensor:
        head = self.module.get_output_embeddings()  # type: ignore[operator]
        if type(head) is not nn.Linear or head.bias is not None:
            raise ValueError(
                f"learner.ops=triton: the output head of {type(self.module).__name__} is more than a matrix "
                f"({type(head).__name__}, or it has a bias); use learner.ops=torch"
            )
        return head.weight

    def set_ops(self, ops: Operators) -> None:
        self.ops = ops

    @property
    def shares_prefixes(self) -> bool:
        """Whether a prefix tree can be computed (``rl.policy.tree_attention.can_share``)."""
        return self._can_share

    def set_recompute(self, on: bool) -> None:
        from transformers.modeling_layers import GradientCheckpointingLayer

        self.recompute = on
        if on:
            settings = {"use_reentrant": False, "context_fn": self._contexts}
            self.module.gradient_checkpointing_enable(settings)  # type: ignore[operator]
        else:
            self.module.gradient_checkpointing_disable()  # type: ignore[operator]
        for layer in self.module.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = on  # it asks this; what is inside stays in evaluation mode, without dropout

    def _contexts(self) -> tuple[Any, Any]:
        """For ``torch.utils.checkpoint``: a layer that is run again routes and attends as in its own pass."""
        routes = nullcontext() if self.routing is None else self.routing.again()
        return nullcontext(), _both(routes, again(self.module.config))

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.module.named_parameters()

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.module.state_dict().items()}

    def update_router_bias(self, counts: Tensor, gamma: float) -> None:
        if self.routing is None:
            raise ValueError(f"{type(self.module).__name__} is dense: set router_bias_gamma=0")
        self.routing.update_bias(counts, gamma)

    def save(self, directory: str | Path, given: Given | None = None) -> None:
        from transformers.core_model_loading import revert_weight_conversion

        given = given or WeightSource(self.weights()).given()
        path, module = Path(directory), cast(Any, self.module)
        path.mkdir(parents=True, exist_ok=True)
        config = module.config
        config.dtype = next(entry.dtype for entry in given.entries if "float" in entry.dtype)
        config.architectures = [type(module).__name__]
        config.save_pretrained(path)
        if module.can_generate():
            module.generation_config.save_pretrained(path)
        left_out = {*(module._keys_to_ignore_on_save or ())}
        if config.tie_word_embeddings:
            left_out |= {*(module._tied_weights_keys or ())}
        write_weights(path, given, partial(revert_weight_conversion, module), left_out)


def _hidden(module: Any, **inputs: Any) -> Tensor:
    """Hidden states behind the final norm, of a causal LM: a method of it, so that a pass begins in all of the model
    and not in its body alone (``rl.policy.sharding``)."""
    states: Tensor = module.base_model(**inputs).last_hidden_state
    return states


@contextmanager
def _both(one: AbstractContextManager[None], other: AbstractContextManager[None]) -> Iterator[None]:
    with one, other:
        yield


def _padded(bounds: Sequence[int], device: torch.device, once: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Sequences side by side as padded batches (``once``: as one): places int64 [B, W], and bool [B, W] where they are
    no padding."""
    lengths = [b - a for a, b in pairwise(bounds)]
    for bucket in [list(range(len(lengths)))] if once else length_buckets(lengths):
        starts, ends = (torch.tensor([[bounds[i + n]] for i in bucket], device=device) for n in (0, 1))
        index = torch.arange(max(lengths[i] for i in bucket), device=device) + starts
        yield index, index < ends


def length_buckets(lengths: Sequence[int], waste: float = 0.15, call: int = CALL) -> list[list[int]]:
    """Indices grouped so that padding each group to its longest member wastes at most ``waste`` of it and ``call``
    tokens."""
    buckets: list[list[int]] = []
    total = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if buckets and total + lengths[i] >= (1 - waste) * lengths[buckets[-1][0]] * (len(buckets[-1]) + 1) - call:
            buckets[-1].append(i)
            total += lengths[i]
        else:
            buckets.append([i])
            total = lengths[i]
    return buckets
