"""GLM-5 (glm_moe_dsa): numerics and files against transformers; choices shared between layers, replayed, recomputed."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from moe_families import GLM5, VOCAB, glm5, write
from safetensors.torch import load_file
from transformers import GlmMoeDsaForCausalLM

from rl.policy.attention import lenders
from rl.policy.attention_context import PackedContext
from rl.policy.checkpoint_checks import check_checkpoint
from rl.policy.dsa import DSAPolicy
from rl.policy.layers import rope_pairs, turns
from rl.policy.loading import load_policy
from rl.policy.model import DSAForCausalLM
from rl.policy.recall import hidden_and_recall
from rl.policy.replay import Record, Replay

pytestmark = pytest.mark.unit
sharings = pytest.mark.parametrize("sharing", [False, True])
FULL = {False: [0, 1, 2, 3, 4], True: [0, 2, 4]}
BOUNDS = [0, 50, 90, 190]


def ours(*, sharing: bool, **overrides: object) -> DSAForCausalLM:
    torch.manual_seed(0)
    return DSAForCausalLM(glm5(sharing=sharing, **overrides))


def tokens() -> torch.Tensor:
    return torch.randint(0, VOCAB, (BOUNDS[-1],), generator=torch.Generator().manual_seed(1))


def everything() -> torch.Tensor:
    return torch.ones(BOUNDS[-1], dtype=torch.bool)


@sharings
@pytest.mark.parametrize("gather_from", [20, 1024])
def test_logits_and_gradients_are_transformers_own(sharing: bool, gather_from: int) -> None:
    """In float64. 64 index heads: that all dots of a pair are negative (score exactly 0, a tie) has no chance here."""
    mine = ours(sharing=sharing, index_n_heads=64).double()
    mine.config._experts_implementation = "eager"  # grouped products know no float64
    theirs = GlmMoeDsaForCausalLM(mine.config).double().eval()
    theirs.load_state_dict(mine.state_dict())
    assert [i for i, layer in enumerate(mine.decoder_layers) if layer.self_attn.indexer is not None] == FULL[sharing]
    ids = tokens()[:60]
    a, b = mine(ids, PackedContext([0, 60], gather_from=gather_from)), theirs(ids[None]).logits[0]
    torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-6)  # RMSNorm and scores are float32 on both sides
    assert (a - mine(ids, PackedContext([0, 60], mode="dense"))).abs().max() > 1e-2, "24 of 60 rows are chosen"
    a.square().mean().backward()
    b.square().mean().backward()
    reference = dict(theirs.named_parameters())
    for name, p in mine.named_parameters():
        if ".indexer." not in name:
            torch.testing.assert_close(p.grad, reference[name].grad, atol=1e-6, rtol=1e-4, msg=name)


def test_rotation_by_hand() -> None:
    """A quarter turn of the pairs (1, 2) and (3, 4); the last number is not rotated."""
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    assert rope_pairs(x, turns(torch.zeros(1, 2), torch.ones(1, 2))).tolist() == [[-2.0, 1.0, -4.0, 3.0, 5.0]]


def test_who_lends_to_whom() -> None:
    assert lenders(glm5(sharing=False)) == [0, 1, 2, 3, 4]
    assert lenders(glm5(sharing=True)) == [0, 0, 2, 2, 4]
    assert lenders(glm5(sharing=True, indexer_types=None, index_topk_freq=3)) == [0, 1, 1, 1, 4]
    for kinds in (["shared"] + ["full"] * 4, ["full"] * 4, ["full", "half", "full", "full", "full"]):
        with pytest.raises(ValueError, match="indexer_types is"):
            lenders(glm5(sharing=False, indexer_types=kinds))


@pytest.mark.parametrize("family", GLM5)
def test_files_go_both_ways(family: str, tmp_path: Path) -> None:
    """transformers' files load; ours have its names and layout, one tensor an expert, and say what vLLM asks for."""
    folder = write(family, tmp_path / "theirs")
    check_checkpoint(folder)
    policy = load_policy(folder)
    assert isinstance(policy, DSAPolicy)
    theirs = GlmMoeDsaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, value in theirs.state_dict().items():
        assert torch.equal(policy.weights()[name], value), name
    policy.save(tmp_path / "ours")
    check_checkpoint(tmp_path / "ours")
    assert load_file(tmp_path / "ours/model.safetensors").keys() == load_file(folder / "model.safetensors").keys()
    config = json.loads((tmp_path / "ours/config.json").read_text())
    assert config["architectures"] == ["GlmMoeDsaForCausalLM"]
    assert config["indexer_rope_interleave"] is True
    assert config["index_topk_pattern"] == ("FSFSF" if family.endswith("5.2") else "FFFFF")
    back, info = GlmMoeDsaForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert back.config.indexer_types == theirs.config.indexer_types
    for name, value in back.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value), name


@sharings
def test_indexers_are_recorded_replayed_and_learn(sharing: bool) -> None:
    policy = DSAPolicy(ours(sharing=sharing))
    record = Record(want_indexer=True, want_indexer_kl="sparse")
    live = policy.packed_logits(tokens(), BOUNDS, record=record)
    assert record.indexer.shape == (BOUNDS[-1], len(FULL[sharing]), 24), "a layer without indexer has no column"
    assert record.indexer_kl_tokens == BOUNDS[-1] * len(FULL[sharing])
    record.indexer_kl.backward()
    learning = {n for n, p in policy.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {n.split(".indexer.")[0] for n in learning} == {f"model.layers.{i}.self_attn" for i in FULL[sharing]}
    replay = Replay(record.experts, everything(), record.indexer)
    torch.testing.assert_close(policy.packed_logits(tokens(), BOUNDS, replay), live, atol=1e-5, rtol=0)
    # The last indexer but one looks at the last rows instead: layer 3 goes with it where it shares.
    other = record.indexer.clone()
    position = torch.cat([torch.arange(b - a) for a, b in pairwise(BOUNDS)])
    other[:, -2] = (position[:, None] - torch.arange(24)).clamp_min(-1)
    again = Record(want_indexer=True)
    changed = policy.packed_logits(tokens(), BOUNDS, Replay(None, everything(), other), again)
    assert (changed - live)[BOUNDS[2] + 24 :].abs().max() > 1e-3
    assert torch.equal(again.indexer[:, -2].sort(-1).values, other[:, -2].sort(-1).values)


@torch.no_grad()
def test_a_borrowing_layer_attends_to_the_forced_choice_of_its_lender() -> None:
    """Layer 1 looks at the newest row only, because layer 0 is made to: an earlier token changes nothing there."""
    model = ours(sharing=True, num_hidden_layers=2, indexer_types=["full", "shared"])
    ids = tokens()[:60]
    own = torch.full((60, 1, 24), -1)
    own[:, 0, 0] = torch.arange(60)
    other = ids.clone()
    other[:59] = (other[:59] + 1) % VOCAB
    valid = torch.ones(60, dtype=torch.bool)
    a, b = (model(t, PackedContext([0, 60]), Replay(None, valid, own)) for t in (ids, other))
    assert torch.equal(a[59], b[59])
    a, b = (model(t, PackedContext([0, 60])) for t in (ids, other))
    assert (a[59] - b[59]).abs().max() > 1e-2


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("kl", [False, True])
@pytest.mark.parametrize("length", [90, 1100])
def test_recomputed_layers_attend_to_the_choice_of_their_own_pass(forced: bool, kl: bool, length: int) -> None:
    """Two layers lend: the first one's choice must still be there when layer 1 is run again, after layer 3 was. Two
    passes before one backward, and one above 1,024 tokens, where rows are gathered."""
    policy = DSAPolicy(ours(sharing=True))
    ids = torch.randint(0, VOCAB, (2, length), generator=torch.Generator().manual_seed(2))
    chosen = []
    for row in ids.flip(0):  # forced choices are those of the other sequence: live ones would give other gradients
        record = Record(want_indexer=True)
        with torch.no_grad():
            policy.packed_logits(row, [0, length], record=record)
        chosen.append(record)

    def gradients(on: bool) -> dict[str, torch.Tensor]:
        policy.set_recompute(on)
        policy.module.zero_grad()
        loss = torch.zeros(())
        for row, made in zip(ids, chosen, strict=True):
            replay = Replay(made.experts, torch.arange(length) < length - 5, made.indexer) if forced else None
            record = Record(want_experts=False, want_indexer_kl="sparse") if kl else None
            loss = loss + policy.packed_logits(row, [0, length], replay, record).square().mean()
            loss = loss + record.indexer_kl if record is not None else loss
        loss.backward()
        return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}

    plain, again = gradients(False), gradients(True)
    assert plain.keys() == again.keys()
    assert any(".indexer." in name for name in plain) == kl
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-7, rtol=1e-4, msg=name)


@sharings
def test_recall_of_every_layer(sharing: bool) -> None:
    """Of a layer that borrows, the mass that its lender's choice recalls of its own attention."""
    module = ours(sharing=sharing)
    hidden, recall = hidden_and_recall(module, tokens(), BOUNDS, "sparse")
    torch.testing.assert_close(hidden, module.hidden(tokens(), PackedContext(BOUNDS)))
    measured = recall["indexer"][:, BOUNDS[2] + 24 :]
    assert measured.shape[0] == 5
    assert bool(((measured > 0) & (measured <= recall["oracle"][:, BOUNDS[2] + 24 :] + 1e-6)).all())


def test_new_indexers_only_where_there_are_some() -> None:
    policy = DSAPolicy(ours(sharing=True))
    before = {name: value.clone() for name, value in policy.weights().items()}
    policy.reset_indexer(seed=3)
    policy.set_index_topk(12)
    moved = {name for name, value in policy.weights().items() if not torch.equal(before[name], value)}
    assert moved
    assert all(".indexer." in name for name in moved)
    assert [layer.self_attn.spec.borrows for layer in policy.module.decoder_layers] == [None, 0, None, 2, None]
