"""Attention over lists of rows, by Triton's interpreter: what torch gives for any sizes and lists, in any order."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.policy.ops.gathered_kernels import gathered_attention
from rl.policy.sparse import gathered_attention as reference


@settings(max_examples=12)
@given(st.integers(1, 3), st.integers(1, 17), st.integers(1, 18), st.integers(1, 17), st.integers(1, 40), st.data())
def test_any_list_of_rows(queries: int, heads: int, latent: int, rope: int, rows: int, data: st.DataObject) -> None:
    row = st.lists(st.integers(-1, rows - 1), min_size=1, max_size=40).filter(lambda chosen: max(chosen) >= 0)
    lists = [torch.tensor(data.draw(row)) for _ in range(queries)]
    indices = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=-1)
    torch.manual_seed(0)
    query, cache = torch.randn(queries, heads, latent + rope), torch.randn(rows, latent + rope)
    found = gathered_attention(query, cache, indices, 0.3, latent)
    torch.testing.assert_close(found, reference(query, cache, indices, 0.3)[..., :latent], atol=1e-5, rtol=1e-5)
    turned = gathered_attention(query, cache, indices.flip(1), 0.3, latent)
    torch.testing.assert_close(turned, found, atol=1e-5, rtol=1e-5)
