"""PackedContext: packing changes nothing, both sparse paths agree, replay and record of the indexer."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl.policy.attention_context import PackedContext
from rl.policy.model import DSAForCausalLM
from rl.policy.presets import tiny_dsa
from rl.policy.replay import Record, Replay

VOCAB = 64


def make(**overrides: object) -> DSAForCausalLM:
    torch.manual_seed(0)
    small = {"num_hidden_layers": 2, "hidden_size": 32, "q_lora_rank": 16, "kv_lora_rank": 16}
    return DSAForCausalLM(tiny_dsa(VOCAB, **{**small, "initializer_range": 0.2, "index_topk": 8, **overrides}))


MODEL = make()


def tokens(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB, (n,), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=15)
@given(st.lists(st.integers(1, 24), min_size=1, max_size=4), st.sampled_from(["dense", "sparse"]))
@torch.no_grad()
def test_packed_equals_separate(lengths: list[int], mode: str) -> None:
    parts = [tokens(n, i) for i, n in enumerate(lengths)]
    bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    packed = MODEL(torch.cat(parts), PackedContext(bounds, mode=mode))  # type: ignore[arg-type]
    alone = torch.cat([MODEL(p, PackedContext([0, len(p)], mode=mode)) for p in parts])  # type: ignore[arg-type]
    torch.testing.assert_close(packed, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk", [5, 16, 512])
def test_gather_path_equals_masked_path_with_gradients(chunk: int) -> None:
    ids, bounds = tokens(75), [0, 40, 75]
    results = []
    for gather_from in (10_000, 1):
        MODEL.zero_grad()
        out = MODEL(ids, PackedContext(bounds, gather_from=gather_from, chunk=chunk))
        out.square().mean().backward()
        results.append((out.detach(), {n: p.grad.clone() for n, p in MODEL.named_parameters() if p.grad is not None}))
    (masked, masked_grads), (gathered, gathered_grads) = results
    torch.testing.assert_close(masked, gathered, atol=1e-5, rtol=1e-4)
    assert masked_grads.keys() == gathered_grads.keys()
    assert not any("indexer" in name for name in masked_grads)
    for name, grad in masked_grads.items():
        torch.testing.assert_close(grad, gathered_grads[name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize(("mode", "kl"), [("sparse", "off"), ("sparse", "sparse"), ("dense", "dense")])
def test_memory_kept_for_backward_is_linear_in_length(mode: str, kl: str) -> None:
    """No L x L tensor, and no sum of pieces that comes to one, is saved or held by the context."""

    model = make(num_hidden_layers=1)  # no experts: how they group tokens changes with the count

    class Saved:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

    def kept(length: int) -> tuple[int, int]:
        saved: weakref.WeakSet[Saved] = weakref.WeakSet()  # what a piece frees on its way is not kept

        def pack(tensor: torch.Tensor) -> Saved:
            saved.add(box := Saved(tensor))
            return box

        context = PackedContext([0, length], mode=mode, gather_from=1, chunk=32)  # type: ignore[arg-type]
        record = Record(want_indexer_kl=kl) if kl != "off" else None  # type: ignore[arg-type]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
            hidden = model.hidden(tokens(length), context, record=record)
        tensors = [box.tensor for box in saved]
        tensors += [t for v in vars(context).values() for t in (v.values() if isinstance(v, dict) else [v])]
        storages = [t.untyped_storage() for t in tensors if isinstance(t, torch.Tensor)]
        sizes = {s.data_ptr(): s.nbytes() for s in storages}
        assert hidden.requires_grad
        return sum(sizes.values()), max(sizes.values())

    (quarter, _), (half, _), (whole, largest) = kept(256), kept(512), kept(1024)
    # constant and linear parts cancel in this difference; c * length^2 leaves c * 0.375 * 1024^2
    bytes_per_pair = (whole - 3 * half + 2 * quarter) / (0.375 * 1024**2)
    assert abs(bytes_per_pair) < 0.1
    assert largest < 2 * 1024 * 1024  # fp32 [1024, 1024] has 4 MiB


@torch.no_grad()
def test_short_sequences_are_dense_attention_exactly() -> None:
    ids = tokens(8)
    sparse = MODEL(ids, PackedContext([0, 8]))
    assert torch.equal(sparse, MODEL(ids, PackedContext([0, 8], mode="dense")))


@torch.no_grad()
def test_recorded_choice_is_the_choice_and_replays() -> None:
    ids, bounds = tokens(50), [0, 30, 50]
    record = Record(want_indexer=True)
    recorded = MODEL(ids, PackedContext(bounds), record=record)
    plain = MODEL(ids, PackedContext(bounds))
    torch.testing.assert_close(recorded, plain, atol=1e-5, rtol=1e-4)
    assert record.indexer.shape == (50, 2, 8)
    assert (record.indexer >= 0).sum(-1)[:, 0].tolist() == [min(i + 1, 8) for n in (30, 20) for i in range(n)]
    replay = Replay(indexer=record.indexer, valid=torch.ones(50, dtype=torch.bool))
    torch.testing.assert_close(MODEL(ids, PackedContext(bounds), replay=replay), plain, atol=1e-5, rtol=1e-4)
    # A different forced choice is obeyed, but never looks into the future.
    first = torch.zeros(50, 2, 8, dtype=torch.int64)
    forced = Replay(indexer=first, valid=torch.ones(50, dtype=torch.bool))
    again = Record(want_indexer=True)
    MODEL(ids, PackedContext(bounds), replay=forced, record=again)
    assert again.indexer[:, :, 0].unique().tolist() == [0]
    assert again.indexer[:, :, 1:].unique().tolist() == [-1]


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_indexer_kl_reaches_only_the_indexer(mode: str) -> None:
    ids, bounds = tokens(50), [0, 30, 50]
    MODEL.zero_grad()
    record = Record(want_indexer_kl=mode)  # type: ignore[arg-type]
    MODEL(ids, PackedContext(bounds, mode=mode, chunk=7), record=record)  # type: ignore[arg-type]
    record.indexer_kl.backward()
    assert record.indexer_kl.item() > 0
    assert record.indexer_kl_tokens == 100
    reached = {n for n, p in MODEL.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached
    assert all(".indexer." in n for n in reached)
    whole = Record(want_indexer_kl=mode)  # type: ignore[arg-type]
    MODEL(ids, PackedContext(bounds, mode=mode), record=whole)  # type: ignore[arg-type]
    torch.testing.assert_close(whole.indexer_kl, record.indexer_kl, atol=1e-3, rtol=1e-4)


def test_indexer_learns_the_attention() -> None:
    model = make()
    ids, bounds = tokens(60), [0, 60]
    optimiser = torch.optim.Adam([p for n, p in model.named_parameters() if ".indexer." in n], lr=1e-2)
    losses = []
    for _ in range(25):
        record = Record(want_indexer_kl="dense")
        model(ids, PackedContext(bounds, mode="dense"), record=record)
        optimiser.zero_grad()
        record.indexer_kl.backward()
        optimiser.step()
        losses.append(record.indexer_kl.item())
    assert losses[-1] < 0.7 * losses[0]


def test_errors_name_the_field() -> None:
    with pytest.raises(ValueError, match="cu_seqlens"):
        PackedContext([0, 5, 5])
    with pytest.raises(ValueError, match="mode"):
        PackedContext([0, 5], mode="flash")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Replay\.valid"):
        Replay(experts=torch.zeros(3, 1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="want_indexer_kl"):
        MODEL(tokens(5), PackedContext([0, 5], mode="dense"), record=Record(want_indexer_kl="sparse"))
