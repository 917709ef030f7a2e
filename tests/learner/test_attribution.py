"""Each part of the mismatch shows in its own row, against choices and log-probs made by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from recorded_segments import LENGTH, PROMPT, TOPK, VOCAB, group, recorded, recording_policy

from rl.learner.attribution import attribute
from rl.policy.api import Policy
from rl.tracking.diagnosis import ROW_HEAD, diagnosis_tables
from rl.types import Segment

NOISE = 1e-4  # float32 arithmetic in another order
SAMPLED = LENGTH - PROMPT


@pytest.fixture
def policy() -> Policy:
    return recording_policy()


def rows(policy: Policy, *segments: Segment, **settings: Any) -> dict[str, dict[str, Any]]:
    return {row["part"]: row for row in attribute(policy, group(*segments), 3, **settings)["rows"]}


def test_equal_choices_and_weights_leave_numerics(policy: Policy) -> None:
    found = attribute(policy, group(recorded(0), recorded(1)), 3)
    assert found["tokens"] == {"exact": 2 * SAMPLED, "older": 0}
    by_part = {row["part"]: row for row in found["rows"]}
    assert list(by_part) == ["numerics", "staleness", "routing", "truncation", "indexer", "total"]
    for part in ("numerics", "routing", "indexer", "total"):
        assert by_part[part]["tokens"] == 2 * SAMPLED
        assert 0 <= by_part[part]["mean"] <= by_part[part]["p99"] <= by_part[part]["max"] < NOISE
        assert by_part[part]["outside"] == 0.0
    assert by_part["routing"]["choices"] == {"rows": 2 * (LENGTH - 1), "other": 0, "overlap": 1.0}
    # Input t sees rows 0..t: from t = TOPK on that is more than it may choose. The last token is no input.
    assert by_part["indexer"]["choices"] == {"rows": 2 * (LENGTH - 1 - TOPK), "other": 0, "overlap": 1.0}
    assert by_part["staleness"]["status"] == "not in use"
    assert by_part["truncation"]["status"] == "not in use"


def test_other_experts_raise_the_routing_row_only(policy: Policy) -> None:
    found = rows(policy, recorded(0, other_experts=True))
    assert found["numerics"]["max"] < NOISE  # the record is true: replayed, nothing is left
    assert found["indexer"]["max"] < NOISE
    assert found["routing"]["mean"] > 100 * NOISE
    assert found["routing"]["outside"] > 0
    assert found["routing"]["choices"]["other"] == found["routing"]["choices"]["rows"]
    assert 0 < found["routing"]["choices"]["overlap"] < 1
    assert found["total"]["mean"] == pytest.approx(found["routing"]["mean"], rel=0.5)


def test_a_wrong_record_shows_in_numerics(policy: Policy) -> None:
    segment = recorded(0)
    segment.replay.experts = (segment.replay.experts + 1) % policy.num_experts
    found = rows(policy, segment)
    assert found["routing"]["max"] < NOISE < 100 * NOISE < found["numerics"]["mean"]


def test_one_near_tie_of_the_indexer_is_named(policy: Policy) -> None:
    """The only token behind the row that chose otherwise is the worst one live, and is mended by forcing it."""
    found = attribute(policy, group(recorded(0), recorded(1, other_indexer=True)), 3)
    by_part = {row["part"]: row for row in found["rows"]}
    assert by_part["numerics"]["max"] < NOISE
    assert by_part["routing"]["max"] < NOISE
    assert by_part["indexer"]["max"] > 10 * NOISE
    choices = by_part["indexer"]["choices"]
    assert (choices["rows"], choices["other"]) == (2 * (LENGTH - 1 - TOPK), 1)
    assert choices["overlap"] == pytest.approx(1 - 1 / TOPK / choices["rows"])
    worst = found["worst"]["indexer live"][0]
    assert (worst["trajectory"], worst["segment"], worst["position"]) == ("g0/1", 0, LENGTH - 1)
    assert worst["flips"] == {"routing": 0, "indexer": 1}
    assert abs(worst["learner"]["everything replayed"] - worst["sampler"]) < NOISE
    assert abs(worst["learner"]["indexer live"] - worst["sampler"]) == pytest.approx(by_part["indexer"]["max"])
    others = found["worst"]["indexer live"][1:]
    assert all(abs(t["learner"]["indexer live"] - t["sampler"]) < NOISE for t in others)


def test_truncation_is_minus_log_z(policy: Policy) -> None:
    segment = recorded(0, top_k=4)
    found = rows(policy, segment, truncated=True)
    assert found["numerics"]["max"] < NOISE
    with torch.no_grad():
        logits = policy.packed_logits(torch.from_numpy(segment.tokens).long(), [0, LENGTH])
    full = logits.softmax(-1).numpy()
    z = [full[t - 1, segment.replay.support[t]].sum() for t in range(PROMPT, LENGTH)]
    np.testing.assert_allclose(found["truncation"]["mean"], np.mean(-np.log(z)), rtol=1e-4)
    np.testing.assert_allclose(found["truncation"]["max"], np.max(-np.log(z)), rtol=1e-4)
    assert found["truncation"]["outside"] == np.mean(np.array(z) < 0.9)


def test_older_tokens_are_in_staleness_only(policy: Policy) -> None:
    old = recorded(1, version=2)
    old.logprobs = np.where(old.loss_mask, old.logprobs - 0.5, 0).astype(np.float32)  # other weights, other log-probs
    found = rows(policy, recorded(0), old)
    assert found["staleness"]["tokens"] == 2 * SAMPLED
    assert found["staleness"]["mean"] == pytest.approx(0.25, abs=NOISE)
    assert found["staleness"]["max"] == pytest.approx(0.5, abs=NOISE)
    assert found["staleness"]["outside"] == 0.5
    for part in ("numerics", "routing", "indexer", "total"):
        assert found[part]["tokens"] == SAMPLED
        assert found[part]["max"] < NOISE


def test_without_a_token_of_these_weights_staleness_cannot_be_told_apart(policy: Policy) -> None:
    found = attribute(policy, group(recorded(0, version=2)), 3)
    assert (found["measured_on"], found["tokens"]) == ("all", {"exact": 0, "older": SAMPLED})
    assert found["rows"][1]["status"] == "not separable"
    assert found["rows"][0]["tokens"] == SAMPLED


def test_behind_a_token_of_older_weights_none_is_exact() -> None:
    mask = np.array([0, 1, 1, 0, 1, 1], bool)
    for versions, exact in (([3, 3, 3, 3], [1, 1, 1, 1]), ([2, 3, 3, 3], [0, 0, 0, 0]), ([3, 3, 4, 4], [1, 1, 0, 0])):
        all_versions = np.full(6, -1)
        all_versions[mask] = versions
        segment = Segment(np.zeros(6, np.int32), mask, np.zeros(6, np.float32), all_versions)
        assert segment.exact(3)[mask].tolist() == [bool(e) for e in exact]
        assert not segment.exact(3)[~mask].any()


def test_packing_changes_nothing(policy: Policy) -> None:
    segments = [recorded(0), recorded(1, other_indexer=True), recorded(2, other_experts=True)]
    together, apart = (attribute(policy, group(*segments), 3, max_tokens=n) for n in (8192, LENGTH))
    for one, other in zip(together["rows"], apart["rows"], strict=True):
        assert one.keys() == other.keys()
        if one["status"] == "measured":
            assert one["mean"] == pytest.approx(other["mean"], abs=NOISE)
            assert one.get("choices") == other.get("choices")
    assert (
        together["worst"]["routing live"][0]["trajectory"] == apart["worst"]["routing live"][0]["trajectory"] == "g0/2"
    )


def test_what_was_not_recorded_is_named_never_zero(policy: Policy) -> None:
    segment = recorded(0, keep_indexer=False)
    segment.replay.experts = None
    found = attribute(policy, group(segment), 3, truncated=True)
    states = {row["part"]: row for row in found["rows"]}
    for part, field in (("routing", "replay.routing"), ("indexer", "replay.indexer"), ("truncation", "sampling_mask")):
        assert states[part]["status"] == "not recorded"
        assert field in states[part]["why"]
        assert "mean" not in states[part]
    table = diagnosis_tables({"step": 4, "version": 3, "device": "cpu", **found})[0]
    assert all(len(row) == len(ROW_HEAD) for row in table.rows)
    assert "Numerics includes what was not recorded: routing, truncation, indexer." in table.note
    assert table.rows[0][2:6] == (f"{SAMPLED}", *(f"{states['numerics'][n]:.1e}" for n in ("mean", "p99", "max")))


def test_parts_a_policy_does_not_have() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from rl.policy.hf import HFPolicy

    sizes = dict(vocab_size=VOCAB, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    dense = HFPolicy(LlamaForCausalLM(LlamaConfig(**sizes)))
    segment = recorded(0)
    segment.replay = None
    found = {row["part"]: row for row in attribute(dense, group(segment), 3)["rows"]}
    assert [found[p]["status"] for p in ("routing", "truncation", "indexer")] == ["not in use"] * 3
    assert found["total"]["mean"] == found["numerics"]["mean"] > 0


def test_short_segments_make_no_choice(policy: Policy) -> None:
    long = recorded(0)
    cut = slice(TOPK)
    record = copy.deepcopy(long.replay)
    record.valid, record.experts, record.indexer = record.valid[cut], record.experts[cut], record.indexer[cut]
    short = Segment(long.tokens[cut], long.loss_mask[cut], long.logprobs[cut], long.versions[cut], record)
    found = attribute(policy, group(short), 3)
    assert found["rows"][4]["status"] == "not in use"
    assert "index_topk" in found["rows"][4]["why"]
    assert "indexer live" not in found["worst"]


def test_errors_name_the_cause(policy: Policy) -> None:
    groups = group(recorded(0))
    groups[0].trajectories[0].failure_kind = "env_error"
    with pytest.raises(ValueError, match="no sampled token: every trajectory was masked"):
        attribute(policy, groups, 3)
    diverged = copy.deepcopy(policy)
    with torch.no_grad():
        next(diverged.named_parameters())[1].fill_(float("nan"))
    with pytest.raises(ValueError, match="34 of 34 log-probs are not finite with everything replayed"):
        attribute(diverged, group(recorded(0)), 3)
