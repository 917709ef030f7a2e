"""vLLM's rotary embedding on a CPU, given slices of heads: the same as torch. Fails without ``rotate_heads_right``."""

from __future__ import annotations

import pytest
import torch

from rl.rollout.vllm_rotary import rotate_heads_right

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("neox", [True, False])
def test_slices_of_heads_are_rotated(neox: bool) -> None:
    rotate_heads_right()
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    with set_current_vllm_config(VllmConfig()):
        parameters = {"rope_type": "default", "rope_theta": 10000.0}
        rope = get_rope(16, max_position=64, rope_parameters=parameters, is_neox_style=neox, dtype=torch.float32)
    torch.manual_seed(0)
    whole_q, whole_k = torch.randn(7, 4, 48), torch.randn(7, 1, 48)
    positions = torch.arange(7)
    expected = rope.forward_native(positions, whole_q[..., 32:].clone(), whole_k[..., 32:].clone())
    found = rope.forward_cpu(positions, whole_q[..., 32:], whole_k[..., 32:])
    copies = rope.forward_cpu(positions, whole_q[..., 32:].contiguous(), whole_k[..., 32:].contiguous())
    for one, other, third in zip(expected, found, copies, strict=True):
        assert torch.allclose(other, one, atol=1e-6)
        assert torch.allclose(third.view_as(one), one, atol=1e-6)
