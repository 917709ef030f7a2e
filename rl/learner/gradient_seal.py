"""Whether the sum of gradients is still what the last micro-batch left.

A gradient that is cleared, scaled or overwritten between two micro-batches, or before the optimiser step, shows in no
loss, no ratio and no rollout: the policy just learns from a part of its batch. So the sum gets a seal after each
backward pass (the norm of every parameter's gradient), and whoever touches it next looks whether it is whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class GradientSeal:
    """Of ``parameters``, as they lie on this rank. A new one says that there is no gradient yet."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._parameters = parameters
        self._norms_P: Tensor | None = None  # None: no gradient anywhere

    def put(self) -> None:
        """The gradients are what they should be now."""
        self._norms_P = self._look()

    def broken(self) -> bool:
        """Whether one of the gradients is another than when the seal was put. NaN and infinity stay what they are."""
        now, before = self._look(), self._norms_P
        if now is None or before is None:
            return (now is None) != (before is None)
        return not torch.equal(now.nan_to_num(-1.0, -2.0), before.nan_to_num(-1.0, -2.0))

    @torch.no_grad()
    def _look(self) -> Tensor | None:
        """float32 [P]: the norm of each gradient, 0 where there is none; None where all are 0."""
        grads = [p.grad for p in self._parameters]
        local = [g.to_local() if isinstance(g, DTensor) else g for g in grads if g is not None]
        if not local:
            return None
        norms = iter(torch.stack(torch._foreach_norm(local)).float().cpu().unbind())
        norms_P = torch.stack([torch.tensor(0.0) if g is None else next(norms) for g in grads])
        return norms_P if bool(norms_P.any()) else None
