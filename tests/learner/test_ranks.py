"""A learner of several ranks is the learner of one: gradients, metrics, weights, checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moe_families import FAMILIES, write
from rank_processes import Case, learn, run_ranks
from test_open_batch import PACKED, SMALL, TIMES, batch
from test_precision import llama
from test_shared_step import groups_of

from rl.learner.config import LearnerConfig
from rl.learner.process import LearnerProcess
from rl.objective.config import ObjectiveConfig, TeachingConfig
from rl.policy.loading import build_policy, load_policy
from rl.policy.lora import LoraPolicy
from rl.types import Group
from tests.learner.conftest import groups_by, tiny_config

Groups = Callable[..., list[Group]]
CASES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("plain", {}, {}, {}),
    ("token_mean", {"loss_aggregation": "token_mean"}, {}, {}),
    ("kl", {"kl_coef": 0.1, "opsm_delta": 0.001, "ref_refresh_every": 1}, {}, {}),
    ("old_policy", {"kl_coef": {"default": 0.3}, "old_policy": "learner", "correction": "truncate"}, {}, {}),
    ("indexer", {"loss_aggregation": "token_mean"}, {"train_indexer": "kl", "indexer_kl_coef": 3.0}, {}),
    ("minibatches", {}, {"minibatches": 2}, {}),
    ("recompute", {}, {"recompute": True, "head_rows": 7}, {}),
    ("flat", {}, {"share_prefixes": False}, {}),
    ("live", {}, {}, {"routing": "check"}),
    ("bfloat16", {}, {"compute_dtype": "bfloat16"}, {}),
    ("lora", {"kl_coef": 0.1}, {"lora": {"rank": 2}}, {}),
    ("lora bfloat16", {}, {"lora": {"rank": 2}, "compute_dtype": "bfloat16"}, {}),
]

TAUGHT = ("taught", "taught by an adapter")


def assert_equal(found: dict[str, Any], wanted: dict[str, Any], close: float, name: str) -> None:
    """``found``: of rank 0. The weights themselves differ by what AdamW makes of rounding: of a gradient near 0."""
    first = wanted["gradients"][0]
    assert float((found["gradients"][0] - first).norm() / first.norm()) < close, name
    for n, (here, there) in enumerate(zip(found["metrics"], wanted["metrics"], strict=True)):
        assert here.keys() == there.keys(), name
        assert here["learner/tokens"] == there["learner/tokens"], name
        if n == 0:
            for key in here.keys() - TIMES - PACKED - {"learner/tokens_distinct", "learner/sharing"}:
                small = 1e-6 if key in SMALL else 0.0
                assert here[key] == pytest.approx(there[key], rel=20 * close, abs=max(small, close)), (name, key)
    assert found["weights"].keys() == wanted["weights"].keys(), name
    for key, value in found["weights"].items():
        assert value.dtype == wanted["weights"][key].dtype, (name, key)
    assert np.abs(found["probe"].logprobs - wanted["probe"].logprobs).max() < max(2e-3, 3 * close), name
    assert found["version"] == wanted["version"], name


@dataclass
class Two:
    """Cases that two ranks have run in one pair of processes: what rank r made of each is ``found[r][name]``."""

    cases: dict[str, Case]
    found: list[dict[str, dict[str, Any]]]


def taught_cases(place: Path, make: Groups) -> dict[str, Case]:
    """One group of a batch has a teacher, the others none: a whole policy, or an adapter of the policy's base."""
    other = build_policy(tiny_config(seed=1))
    other.save(place / "whole")
    (place / "adapter").mkdir()
    adapted = LoraPolicy(other, 2, 32)
    for value in (p for name, p in adapted.named_parameters() if ".lora_B" in name):
        torch.nn.init.normal_(value, std=0.1)
    adapted.save_adapter(place / "adapter")
    batches = [batch(make), batch(make, seed=1)]
    batches[0][0].family = batches[1][1].family = "code"

    def case(teacher: str, **settings: Any) -> Case:
        distill = TeachingConfig({"code": str(place / teacher)}, reward_weight=0.5)
        return Case(place / "policy", batches, {"distill": distill, "kl_coef": 0.1}, settings)

    return dict(zip(TAUGHT, (case("whole", head_rows=7), case("adapter", lora={"rank": 2})), strict=True))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    place = tmp_path_factory.mktemp("two")
    policy = build_policy(tiny_config())
    policy.save(place / "policy")
    make = groups_by(policy)
    batches = [batch(make), batch(make, seed=1)]
    cases = {name: Case(place / "policy", batches, o, s, r) for name, o, s, r in CASES}
    cases["one by one"] = Case(place / "policy", batches[:1], accumulate=True)
    alike = make(count=2)
    for t in (t for group in alike for t in group.trajectories):
        t.reward = 1.0
    cases["no gradient"] = Case(place / "policy", [alike])
    folders = {"llama": llama(place / "llama", torch.float32)}
    folders |= {family: write(family, place / family) for family in FAMILIES}
    cases |= {name: Case(folder, [groups_of(load_policy(folder))]) for name, folder in folders.items()}
    cases["llama, flat"] = replace(cases["llama"], settings={"share_prefixes": False})
    cases |= taught_cases(place, make)
    ranks = run_ranks(2, 2, list(cases.values()), place / "ranks")
    return Two(cases, [dict(zip(cases, results, strict=True)) for results in ranks])


@pytest.mark.parametrize("name", [*(name for name, *_ in CASES), "llama", *FAMILIES, "llama, flat", *TAUGHT])
def test_two_ranks_do_what_one_process_does(two: Two, tmp_path: Path, name: str) -> None:
    """Ours, a dense model of transformers whose head is tied to its embedding, and families with experts: replay counts
    every record."""
    assert_ranks(two.found[0][name], [rank[name] for rank in two.found], two.cases[name], tmp_path, name)


def test_groups_that_arrive_one_by_one(two: Two, tmp_path: Path) -> None:
    whole = replace(two.cases["one by one"], accumulate=False)
    assert_equal(two.found[0]["one by one"], learn(whole, tmp_path), 2e-6, "one by one")


def test_no_group_with_a_gradient(two: Two) -> None:
    """Nobody makes a pass, nobody waits, and the weights stay."""
    found = two.found[0]["no gradient"]
    assert not found["gradients"]
    assert found["version"] == 1
    for name, value in load_policy(two.cases["no gradient"].policy).weights().items():
        assert torch.equal(found["weights"][name], value)


def test_the_weights_are_really_split(two: Two, tmp_path: Path) -> None:
    """What a rank keeps of parameters and moments is its share; the rest is there while a layer runs."""
    alone = learn(two.cases["plain"], tmp_path)["resting"]
    for rank in two.found:
        assert rank["plain"]["resting"] < 0.55 * alone


def assert_ranks(first: dict[str, Any], ranks: list[dict[str, Any]], case: Case, place: Path, name: str) -> None:
    assert_equal(first, learn(case, place), 2e-2 if "bfloat16" in name else 2e-6, name)
    assert all(rank["metrics"][0]["loss/total"] == first["metrics"][0]["loss/total"] for rank in ranks)
    assert all(not rank["weights"] for rank in ranks[1:]), "only the first rank holds whole weights"


@pytest.mark.parametrize(("size", "shards"), [pytest.param(3, 3, marks=pytest.mark.slow), (4, 2)])
def test_gradients_are_those_of_one_process(tmp_path: Path, size: int, shards: int) -> None:
    """3: the numbers do not come out even. 4, 2: two copies of the weights, each on two ranks (HSDP)."""
    policy = build_policy(tiny_config())
    policy.save(tmp_path / "policy")
    make = groups_by(policy)
    batches = [batch(make), batch(make, seed=1)]
    chosen = [case for case in CASES if case[0] in ("plain", "kl", "indexer", "minibatches")]
    cases = [Case(tmp_path / "policy", batches, o, s, r) for _, o, s, r in chosen]
    found = run_ranks(size, shards, cases, tmp_path / "ranks")
    for n, (name, *_) in enumerate(chosen):
        assert_ranks(found[0][n], [rank[n] for rank in found], cases[n], tmp_path, name)


def test_checkpoints_fit_any_number_of_ranks(policy_config: dict, make_groups: Groups, tmp_path: Path) -> None:
    """2 ranks -> 1 -> 3, each one more step: as one process that never stopped. Adapter, reference, bfloat16 too."""
    build_policy(policy_config).save(tmp_path / "policy")
    batches = [batch(make_groups, seed=n) for n in range(3)]
    kinds: list[dict[str, Any]] = [
        {"settings": {"warmup_steps": 3, "minibatches": 2}, "objective": {"kl_coef": 0.1}},
        {"settings": {"lora": {"rank": 2}, "compute_dtype": "bfloat16"}},
    ]
    straight = [learn(Case(tmp_path / "policy", batches, **kind), tmp_path) for kind in kinds]
    before: list[Path | None] = [None for _ in kinds]
    for n, size in enumerate((2, 1, 3)):
        saved = [tmp_path / f"checkpoints_{k}_{n}" for k in range(len(kinds))]
        cases = [
            Case(tmp_path / "policy", [batches[n]], **kind, start=start, save=save)
            for kind, start, save in zip(kinds, before, saved, strict=True)
        ]
        if size == 1:
            found = [learn(case, tmp_path) for case in cases]
        else:
            found = run_ranks(size, size, cases, tmp_path / f"ranks{n}")[0]
        before = [next(path.glob("step_*")) for path in saved]
    for kind, here, there in zip(("float32", "bfloat16"), found, straight, strict=True):
        close = 2e-5 if kind == "float32" else 2e-2
        assert here["version"] == there["version"] == 3
        a, b = here["metrics"][0]["learner/grad_norm"], there["metrics"][2]["learner/grad_norm"]
        assert a == pytest.approx(b, rel=50 * close)
        for name, value in here["weights"].items():
            assert torch.allclose(value.float(), there["weights"][name].float(), atol=2e-3), (kind, name)


@pytest.mark.parametrize(("size", "shards"), [(2, 2), pytest.param(4, 2, marks=pytest.mark.slow)])
def test_ranks_repeat_themselves_bit_for_bit(
    policy_config: dict, make_groups: Groups, tmp_path: Path, size: int, shards: int
) -> None:
    """``deterministic=true`` allows them: gradients, metrics but times, weights; and after a resume."""
    build_policy(policy_config).save(tmp_path / "policy")
    batches = [batch(make_groups, seed=n) for n in range(2)]
    kinds: list[dict[str, Any]] = [
        {"objective": {"kl_coef": 0.1, "opsm_delta": 0.001}, "settings": {"minibatches": 2, "warmup_steps": 2}},
        {"settings": {"lora": {"rank": 2}, "compute_dtype": "bfloat16"}},
    ]
    straight = [Case(tmp_path / "policy", batches, **kind) for kind in kinds]
    saved, resumed = [], []
    for n, kind in enumerate(kinds):
        place = tmp_path / f"saved{n}"
        saved.append(Case(tmp_path / "policy", batches[:1], **kind, save=place))
        resumed.append(Case(tmp_path / "policy", batches[1:], **kind, start=place / "step_000001"))
    first = run_ranks(size, shards, straight + saved, tmp_path / "first")[0]
    again = run_ranks(size, shards, straight + resumed, tmp_path / "again")[0]
    for n in range(len(kinds)):
        one, other, later = first[n], again[n], again[len(kinds) + n]
        assert all(torch.equal(a, b) for a, b in zip(one["gradients"], other["gradients"], strict=True))
        assert without_times(one["metrics"]) == without_times(other["metrics"])
        assert without_times(one["metrics"][1:]) == without_times(later["metrics"])
        for found in (other, later):
            assert one["weights"].keys() == found["weights"].keys()
            assert all(torch.equal(value, found["weights"][name]) for name, value in one["weights"].items())
            assert np.array_equal(one["probe"].logprobs, found["probe"].logprobs)


def without_times(metrics: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in one.items() if key not in TIMES} for one in metrics]


def test_engines_meet_the_first_rank_alone(tmp_path: Path) -> None:
    process = LearnerProcess({}, LearnerConfig(ranks=2), ObjectiveConfig(), str(tmp_path), rank=1)
    assert process.meet_engines() is None
    assert process._engines is None, "no port that nobody asks"
