"""The parts of batch invariance by themselves; the engine as a whole: tests/rollout/test_deterministic_engine.py."""

from __future__ import annotations

import pytest
import torch

from rl.policy.batch_invariance import ROWS, filled, make_invariant
from rl.policy.model import DSAForCausalLM
from rl.policy.moe import DENSE_TOKENS, Experts
from rl.policy.presets import tiny_dsa
from rl.policy.sparse import ascending


@pytest.mark.parametrize(("rows", "wanted"), [(1, 16), (15, 16), (16, 16), (17, 32), (64, 64)])
def test_rows_are_filled_up_with_zeros(rows: int, wanted: int) -> None:
    x = torch.arange(1, rows + 1)
    assert filled(x).tolist() == [*range(1, rows + 1), *[0] * (wanted - rows)]
    assert filled(torch.ones(rows, 3, 2)).shape == (wanted, 3, 2)
    assert wanted % ROWS == 0


def test_positions_in_ascending_order_with_the_unused_last() -> None:
    assert ascending(torch.tensor([[5, -1, 0, 3], [-1, -1, 2, -1]])).tolist() == [[0, 3, 5, -1], [2, -1, -1, -1]]


def test_experts_of_a_long_prompt_have_the_bits_of_a_short_one() -> None:
    torch.manual_seed(0)
    model = DSAForCausalLM(tiny_dsa(256, num_hidden_layers=2, initializer_range=0.1)).requires_grad_(False)
    (experts,) = (m for m in model.modules() if isinstance(m, Experts))
    x, gates = torch.randn(5 * DENSE_TOKENS, 128), torch.rand(5 * DENSE_TOKENS, 2)
    chosen = torch.rand(5 * DENSE_TOKENS, 8).topk(2).indices
    grouped = experts(x, gates, chosen)
    make_invariant(model)
    dense = experts(x, gates, chosen)
    assert torch.allclose(grouped, dense, atol=1e-4)
    for rows in (16, 64, 3 * DENSE_TOKENS + 48):
        assert torch.equal(experts(x[:rows], gates[:rows], chosen[:rows]), dense[:rows])
