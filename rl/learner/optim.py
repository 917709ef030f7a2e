"""One optimiser step: norm of the gradient, clip, AdamW at the scheduled learning rate, or skip.

A step whose loss or gradient is not finite changes nothing: no parameter, no moment, no schedule position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from rl.policy.sharding import mesh_of, whole

Schedule = Callable[[int], float]


def schedule(kind: str, warmup_steps: int, total_steps: int = 0, final_share: float = 0.0) -> Schedule:
    """Share of the peak learning rate at optimiser step 0, 1, 2, ...

    Warm-up is linear, (step + 1) / warmup_steps; then ``constant``, ``cosine`` or ``linear`` down to
    ``final_share`` at ``total_steps``.
    """

    def share(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if kind == "constant":
            return 1.0
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        left = 0.5 * (1.0 + math.cos(math.pi * done)) if kind == "cosine" else 1.0 - done
        return final_share + (1.0 - final_share) * left

    return share


class Optimizer:
    """AdamW over named parameters. ``steps``: optimiser steps applied so far.

    Weight decay acts on matrices only (norm gains and biases are left alone).
    """

    def __init__(
        self,
        named: Iterable[tuple[str, torch.nn.Parameter]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        grad_clip: float,
        share: Schedule,
    ) -> None:
        learning = [(name, p) for name, p in named if p.requires_grad]
        self.names, self.parameters = [name for name, _ in learning], [p for _, p in learning]
        if not self.parameters:
            raise ValueError("no parameter requires a gradient: nothing to train")
        self.lr, self.grad_clip, self.share, self.steps = lr, grad_clip, share, 0
        self._meshes: dict[Any, list[torch.nn.Parameter]] = {}  # the same order on all ranks
        for parameter in self.parameters:
            self._meshes.setdefault(mesh_of(parameter), []).append(parameter)
        self.adamw = torch.optim.AdamW(
            [
                {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": weight_decay},
                {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=lr,
            betas=betas,
            eps=eps,
            # Experts that are spread lie on a mesh of their own, and torch's fused step takes one mesh at a time.
            fused=len(self._meshes) <= 1,
            foreach=False if len(self._meshes) > 1 else None,
        )

    def zero_grad(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def step(self, loss: float) -> dict[str, float]:
        """Apply the accumulated gradient of ``loss``; returns grad_norm, lr and applied (1.0 or 0.0).

        The gradient is cleared either way.
        """
        norm = self._clip()
        lr = self.lr * self.share(self.steps)
        finite = math.isfinite(norm) and math.isfinite(loss)
        if finite:
            for group in self.adamw.param_groups:
                group["lr"] = lr
            self.adamw.step()
            self.steps += 1
        self.zero_grad()
        return {"grad_norm": norm, "lr": lr, "applied": float(finite)}

    def _clip(self) -> float:
        """Clip the gradient; returns its norm before. Norms are taken mesh by mesh, for torch mixes none."""
        norms = []
        for parameters in self._meshes.values():
            grads = [p.grad for p in parameters if p.grad is not None]
            norms.append(whole(torch.nn.utils.get_total_norm(grads)))
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        for parameters in self._meshes.values():
            torch.nn.utils.clip_grads_with_norm_(parameters, self.grad_clip, norm)
        return float(norm)

    def moments(self) -> dict[str, dict[str, torch.Tensor]]:
        """AdamW's state by the names of the parameters that have one, sharded as they are: the live tensors."""
        held = self.adamw.state
        return {name: dict(held[p]) for name, p in zip(self.names, self.parameters, strict=True) if held.get(p)}

    def load(self, steps: int, moments: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Take over ``moments`` (sharded as the parameters are) and the position in the schedule."""
        self.adamw.state.clear()
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if name in moments:
                # Where AdamW itself keeps the step: torch's fused one beside the parameter.
                step = moments[name]["step"].to(parameter.device if len(self._meshes) <= 1 else "cpu")
                self.adamw.state[parameter] = {**moments[name], "step": step}
        self.steps = steps
