"""Batch invariance: the bits of a token's result depend on the tokens before it, and on nothing beside it.

Floating-point sums depend on their order, and kernels choose the order by the shape of the whole batch. Three things
make a row of our policy depend on its company, and each is kept from happening:

- matrix products with few rows, and the tails of vectorised loops, take other code: the tokens of a pass are filled up
  to a multiple of ``ROWS`` (``filled``), so that there are none;
- experts are computed densely, in pieces of at most ``DENSE_TOKENS`` rows (``rl.policy.moe``): grouped products have as
  many rows as tokens chose the expert;
- every query attends to exactly its k rows in ascending order, chosen by a loop that knows no other query
  (``rl.rollout.paged_choice``).

It holds on one thread: several cut a loop where the size of the batch says.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rl.policy.moe import Experts

ROWS = 16  # float32 numbers of the widest vector (AVX-512): so many rows leave no tail, whatever their width


def filled(x_T: Tensor) -> Tensor:
    """[T', ...] with T' the next multiple of ``ROWS``: zeros below the T rows of ``x_T`` [T, ...]."""
    missing = -len(x_T) % ROWS
    return F.pad(x_T, (0, 0) * (x_T.dim() - 1) + (0, missing)) if missing else x_T


def make_invariant(model: nn.Module) -> None:
    """Let the experts of ``model`` compute batch-invariantly. The rest is up to who runs it (see the module)."""
    for module in model.modules():
        if isinstance(module, Experts):
            module.invariant = True
