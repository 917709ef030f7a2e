"""8-bit integers with a scale per row: what they stand for, that sums of products are exact, and the switch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import BaseConfig, PolicyConfig
from rl.policy.attention_context import PackedContext
from rl.policy.dsa import DSAPolicy
from rl.policy.index_precision import encode, rounded
from rl.policy.io import copy_with_precision, index_precision
from rl.policy.loading import build_policy, load_policy
from rl.policy.replay import Record
from rl.policy.sparse import index_scores
from rl.policy.supported import unsupported
from rl.recipes.pretrain import overrides
from rl.rollout.paged_codes import encode_rows

pytestmark = pytest.mark.unit


def test_codes_by_hand() -> None:
    # largest 1 = 2^0: scale 2^-6, so 1 is 64; largest 1.99: scale 2^-6, and 127.4 becomes 127; 3 doubles the scale
    codes, scale = encode(torch.tensor([[1.0, -0.5, 0.004, 0.012], [1.99, 1.0, 0.0, -1.0], [3.0, -3.9, 0.1, 0.0]]))
    assert scale.flatten().tolist() == [2**-6, 2**-6, 2**-5]
    assert codes.tolist() == [[64, -32, 0, 1], [127, 64, 0, -64], [96, -125, 3, 0]]


def test_halves_go_to_the_even_code_and_the_largest_is_127() -> None:
    codes, scale = encode(torch.tensor([[1.0, 0.5 / 64, 1.5 / 64, 2.5 / 64], [-1.999, 0.0, 0.0, 0.0]]))
    assert codes.tolist() == [[64, 0, 2, 2], [-127, 0, 0, 0]]
    assert scale.flatten().tolist() == [2**-6, 2**-6]


def test_zeros_stay_and_rows_that_are_no_numbers_become_none() -> None:
    x = torch.tensor([[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0], [-0.0, 1e-45]])
    found = rounded(x)
    assert found[0].tolist() == [0.0, 0.0]
    assert found[1:3].isnan().all()
    assert found[3].abs().max() <= 2**-126


rows = st.integers(0, 2**31).map(
    lambda seed: (
        torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(seed))
        * torch.randn(3, 5, 1, generator=torch.Generator().manual_seed(seed + 1)).mul(8).exp()
    )
)


@given(rows)
def test_rounding_is_close_stays_and_fits_in_bfloat16(x: torch.Tensor) -> None:
    found, (codes, scale) = rounded(x), encode(x)
    assert torch.equal(found, codes * scale)
    assert torch.equal(rounded(found), found)
    assert torch.equal(found.bfloat16().float(), found)
    assert bool((codes.abs().amax(-1) >= 64).all())
    assert bool(((found - x).abs() <= torch.where(codes.abs() == 127, scale, scale / 2)).all())
    assert torch.equal(scale.log2(), scale.log2().round())


@given(rows)
def test_the_engines_loop_finds_the_same_codes(x: torch.Tensor) -> None:
    codes, scale = encode(x[0])
    made, scales = np.zeros((5, 24), np.uint8), np.empty(5, np.float32)
    encode_rows(x[0].numpy(), made, scales, 128)
    assert np.array_equal(made, (codes + 128).numpy())
    assert np.array_equal(scales, scale[:, 0].numpy())


@given(st.integers(0, 2**31))
def test_sums_of_products_do_not_depend_on_their_order(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    q, k = (rounded(torch.randn(n, 1040, generator=g)) for n in (4, 6))
    order = torch.randperm(1040, generator=g)
    exact = (q.double() @ k.double().T).float()
    assert torch.equal(q @ k.T, exact)
    assert torch.equal(q[:, order] @ k[:, order].T, exact)


def test_gradients_pass_as_if_nothing_was_rounded() -> None:
    x = torch.randn(4, 8, requires_grad=True)
    upstream = torch.randn(4, 8)
    (rounded(x) * upstream).sum().backward()
    assert torch.equal(x.grad, upstream)


def policy(precision: str | None, **more: object) -> DSAPolicy:
    shape = {"num_hidden_layers": 2, "index_topk": 8, "initializer_range": 0.3, **more}
    chosen = {} if precision is None else {"index_precision": precision}
    built = build_policy({"preset": "tiny_dsa", "vocab_size": 64, "overrides": {**shape, **chosen}})
    assert isinstance(built, DSAPolicy)
    return built


def test_only_the_indexer_is_rounded_and_learns_all_the_same() -> None:
    ids = torch.arange(40) % 64
    hidden, kl = [], []
    for precision in (None, "float32", "int8"):
        made = policy(precision)
        record = Record(want_indexer=True, want_indexer_kl="sparse")
        hidden.append(made.packed_hidden(ids, [0, 40], record=record))
        record.indexer_kl.backward()
        grads = [p.grad for name, p in made.named_parameters() if ".indexer." in name]
        assert all(g is not None and bool(g.abs().sum() > 0) for g in grads)
        kl.append(record.indexer_kl.detach())
    assert torch.equal(hidden[0], hidden[1])
    assert torch.equal(hidden[0][:8], hidden[2][:8])  # these see no more than index_topk rows
    assert not torch.equal(kl[0], kl[2])
    assert torch.allclose(kl[0], kl[2], rtol=0.05)


def test_a_policys_indexer_compares_what_codes_stand_for() -> None:
    seen = []

    class Looks(PackedContext):
        def attend(self, layer, q, kv, spec, tap=None):  # type: ignore[no-untyped-def]
            seen.append((q.index_q, q.index_w, kv.index_k))
            return super().attend(layer, q, kv, spec, tap)

    policy("int8").module(torch.arange(20), Looks([0, 20]))
    assert len(seen) == 2
    for q, w, k in seen:
        assert torch.equal(rounded(q), q)
        assert torch.equal(rounded(k), k)
        assert index_scores(q, w, k).shape == (20, 20)


def test_the_precision_is_stored_with_the_policy(tmp_path: Path) -> None:
    policy("int8").save(tmp_path / "a")
    assert index_precision(tmp_path / "a") == "int8"
    copy_with_precision(tmp_path / "a", tmp_path / "b", "float32")
    assert index_precision(tmp_path / "b") == "float32"
    one, other = (load_policy(tmp_path / name) for name in "ab")
    rounding = [m.rounds for p in (one, other) for m in p.module.modules() if hasattr(m, "rounds")]
    assert rounding == [True, True, False, False]
    assert all(torch.equal(x, other.weights()[name]) for name, x in one.weights().items())
    policy(None).save(tmp_path / "c")
    assert "index_precision" not in json.loads((tmp_path / "c" / "config.json").read_text())
    assert index_precision(tmp_path / "c") == "float32"


def test_other_precisions_and_too_long_keys_are_refused() -> None:
    config = policy("int8").module.config.to_dict()
    assert unsupported(config) is None
    assert "index_precision='int4': must be float32 or int8" in str(unsupported({**config, "index_precision": "int4"}))
    assert "exact up to 1040" in str(unsupported({**config, "index_head_dim": 1042}))


def test_a_policy_from_nothing_takes_the_setting() -> None:
    assert overrides(PolicyConfig(overrides={"index_topk": 9}), BaseConfig(index_precision="int8")) == {
        "index_topk": 9, "index_precision": "int8",
    }  # fmt: skip
    assert overrides(PolicyConfig(), BaseConfig()) == {}
