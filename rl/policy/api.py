"""The protocol that the learner uses for every policy.

logits = policy.packed_logits(tokens_T, [0, n1, n1 + n2])          # [T, V]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from rl.policy.attention_context import AttentionMode
from rl.policy.context_parallel import RowSplit
from rl.policy.ops.operators import Operators
from rl.policy.prefix_tree import PrefixTree
from rl.policy.replay import Record, Replay
from rl.policy.weight_plan import Given

CuSeqlens = Sequence[int] | Tensor | PrefixTree | RowSplit


class Policy(Protocol):
    """A causal language model on packed sequences. ``mode`` is "dense" for models without an indexer."""

    @property
    def module(self) -> nn.Module:
        """Holds the parameters."""
        ...

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The decoder layers, in order; with ``module.hidden``, which a pass enters it by, what can be sharded
        (``rl.policy.sharding``)."""
        ...

    mode: AttentionMode
    vocab_size: int
    num_experts: int  # 0 for dense models
    num_moe_layers: int  # 0 for dense models

    @property
    def ops(self) -> Operators:
        """What it computes with; ``set_ops`` changes it."""
        ...

    @property
    def shares_prefixes(self) -> bool:
        """Whether tokens that packed sequences begin with are computed once."""
        ...

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

    def packed_hidden(
        self,
        tokens_T: Tensor,
        cu_seqlens: CuSeqlens,
        replay: Replay | None = None,
        record: Record | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """What ``logits`` takes: hidden states [T, hidden] behind the final norm, or [N, hidden] for ``rows``.

        With a ``RowSplit`` all of it is of this rank's R rows: tokens, replay (with ``counts``), ``rows`` among them
        and the hidden states; every rank of its group makes the same call.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """The output head: [N, V] of hidden states [N, hidden]."""
        ...

    def head_weight(self) -> Tensor:
        """W [V, hidden] of the output head, logits = hidden W^T. Raises ValueError for a head that does more."""
        ...

    def set_ops(self, ops: Operators) -> None:
        """Compute with ``ops`` from now on (``learner.ops``)."""
        ...

    def set_recompute(self, on: bool) -> None:
        """Keep a layer's input only, and run the layer again in the backward pass (activation recomputation)."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def weights(self) -> dict[str, Tensor]:
        """Everything an engine needs to copy, by in-memory name; detached, not cloned."""
        ...

    def update_router_bias(self, counts: Tensor, gamma: float) -> None:
        """Aux-loss-free balancing; ``counts`` [L_moe, E]. For pre-training and cold start only."""
        ...

    def save(self, directory: str | Path, given: Given | None = None) -> None:
        """Write what this policy's checkpoint consists of into ``directory`` (created), in the hub's layout.

        ``given``: the weights, by the names of ``weights``, where this policy holds none itself; each is written and
        dropped (``rl.policy.weight_files``). Raises OSError.
        """
        ...
