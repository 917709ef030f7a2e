"""Teachers in a learner step: the gradient is that of the KLs of single segments, whatever the packing and the
pieces; every family has its own teacher, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_memory_switches import gradient
from test_precision import llama
from test_shared_step import groups_of
from transformers import LlamaConfig, LlamaForCausalLM

from rl.learner.config import LearnerConfig, LoraConfig, ReplayConfig
from rl.learner.items import items_of
from rl.learner.learner import Learner
from rl.learner.pack_item import PackItem
from rl.objective.advantage import BatchSize
from rl.objective.config import ObjectiveConfig, TeachingConfig
from rl.objective.teaching import reverse_kl
from rl.policy.api import Policy
from rl.policy.loading import build_policy, load_policy
from rl.policy.lora import LoraPolicy
from rl.policy.replay import Replay
from rl.types import Group, Segment
from tests.learner.conftest import tiny_config

FAMILIES = ("search", "code", "agent")  # of the three groups of ``groups_of``
WEIGHTS = {"default": 1.0, "code": 0.25}


@pytest.fixture
def teachers(tmp_path: Path) -> dict[str, str]:
    """Two of the three families have one, of another seed each."""
    for n, family in enumerate(FAMILIES[:2]):
        build_policy(tiny_config(seed=n + 1)).save(tmp_path / family)
    return {family: str(tmp_path / family) for family in FAMILIES[:2]}


def families(policy: Policy) -> list[Group]:
    groups = groups_of(policy)
    for group, family in zip(groups, FAMILIES, strict=True):
        group.family = family
    return groups


def objective(teachers: dict[str, str], **settings: Any) -> ObjectiveConfig:
    distill = TeachingConfig(teachers=teachers, weight=WEIGHTS, **settings)
    return ObjectiveConfig(distill=distill, temperature=0.7)


def logprobs_of(policy: Policy, segment: Segment, replayed: bool) -> torch.Tensor:
    """[T-1, V] at temperature 0.7."""
    replay = None
    if replayed and segment.replay is not None and segment.replay.experts is not None:
        replay = Replay(torch.from_numpy(segment.replay.experts).long(), torch.from_numpy(segment.replay.valid))
    ids = torch.from_numpy(segment.tokens).long()
    return (policy.packed_logits(ids, [0, len(ids)], replay)[:-1] / 0.7).log_softmax(-1)


def by_hand(
    policy: Policy, groups: list[Group], config: ObjectiveConfig
) -> tuple[torch.Tensor, float, dict[str, list[float]]]:
    """Gradient and value of 1/groups sum 1/G sum_i 1/|o_i| sum_t lambda K_t, a segment at a time; and all K_t."""
    loss, found = torch.zeros(()), {family: list[float]() for family in FAMILIES}
    top_k = config.distill.top_k if config.distill.form == "top_k" else None
    for group in groups:
        path = config.distill.teacher_for(group.family)
        if path is None:
            continue
        teacher = load_policy(path)
        for trajectory in group.trajectories:
            for segment in trajectory.segments:
                with torch.no_grad():
                    theirs = logprobs_of(teacher, segment, replayed=False)
                targets = torch.from_numpy(segment.targets) - 1
                kl = reverse_kl(logprobs_of(policy, segment, replayed=True)[targets], theirs[targets], top_k)
                weight = config.distill.weight_for(group.family) / (
                    len(groups) * len(group.trajectories) * trajectory.sampled_tokens
                )
                loss = loss + weight * kl.sum()
                found[group.family] += kl.tolist()
    policy.module.zero_grad()
    loss.backward()
    parts = [
        p.grad.flatten() for name, p in policy.named_parameters() if p.grad is not None and ".indexer." not in name
    ]
    policy.module.zero_grad(set_to_none=True)
    return torch.cat(parts), loss.item(), found


@pytest.mark.parametrize("form", ["full", "top_k"])
def test_the_gradient_is_that_of_single_segments(
    policy: Policy, tmp_path: Path, teachers: dict[str, str], form: str
) -> None:
    """With its experts forced and the teacher's own, over the whole vocabulary also where the sampler kept a part."""
    groups = families(policy)
    config = objective(teachers, form=form, top_k=5)
    wanted, value, kls = by_hand(policy, groups, config)
    for settings in ({"share_prefixes": False}, {}, {"head_rows": 7, "recompute": True}):
        found, metrics = gradient(
            policy, groups, tmp_path, objective=config, max_tokens_per_microbatch=120, **settings
        )  # fmt: skip
        assert float((found - wanted).norm() / wanted.norm()) < 1e-5, settings
        assert metrics["loss/distill"] == pytest.approx(value, rel=1e-5)
        for family in FAMILIES[:2]:
            mean = sum(kls[family]) / len(kls[family])
            assert metrics[f"distill/kl/{family}"] == pytest.approx(mean, rel=1e-4)
            assert 0 < metrics[f"distill/teacher_entropy/{family}"] < 3.5
        assert "distill/kl/agent" not in metrics
        assert metrics["replay/rows"] == metrics["learner/tokens"]
        assert 0 < metrics["learner/tokens_taught"] < metrics["learner/tokens_distinct"]


def test_sampled_tokens_and_rewards(policy: Policy, tmp_path: Path, teachers: dict[str, str]) -> None:
    """The same on trees as flat; and beside rewards the gradient is the sum of both."""
    groups = families(policy)
    found = {}
    for name, config in {
        "sampled": objective(teachers, form="sampled"),
        "rewards": ObjectiveConfig(temperature=0.7),
        "both": objective(teachers, form="sampled", reward_weight=0.5),
    }.items():
        flat, one = gradient(policy, groups, tmp_path, objective=config, share_prefixes=False)
        tree, other = gradient(policy, groups, tmp_path, objective=config)
        assert float((tree - flat).norm() / flat.norm()) < 1e-5
        assert one["loss/total"] == pytest.approx(other["loss/total"], abs=1e-6)
        found[name] = tree
    both = found["sampled"] + 0.5 * found["rewards"]
    assert float((found["both"] - both).norm() / both.norm()) < 1e-5


def test_a_teacher_that_is_the_policy_teaches_nothing(policy: Policy, tmp_path: Path) -> None:
    """Live-routed on both sides, KL and gradient are 0; also by an adapter that was just made, and in bfloat16."""
    policy.save(tmp_path / "same")
    config = ObjectiveConfig(distill=TeachingConfig(teachers={"default": str(tmp_path / "same")}))
    for settings in ({}, {"lora": LoraConfig(rank=2)}, {"compute_dtype": "bfloat16"}):
        own = load_policy(tmp_path / "same")
        groups = groups_of(own)
        found, metrics = gradient(
            own, groups, tmp_path, objective=config, replay=ReplayConfig(routing="off"), **settings
        )  # fmt: skip
        assert abs(metrics["distill/kl/search"]) < 1e-6
        assert float(found.abs().max()) < 1e-6
        assert metrics["loss/policy"] == 0.0
        assert metrics["learner/tokens_taught"] == metrics["learner/tokens_distinct"]


def test_the_policy_comes_near_its_teacher(policy: Policy, tmp_path: Path) -> None:
    build_policy(tiny_config(seed=1)).save(tmp_path / "teacher")
    groups = groups_of(policy)
    config = ObjectiveConfig(distill=TeachingConfig(teachers={"search": str(tmp_path / "teacher")}))
    trainer = Learner(policy, LearnerConfig(lr=3e-3, threads=1), config, tmp_path)
    kls = [trainer.step(groups)["distill/kl/search"] for _ in range(8)]
    assert kls[-1] < 0.7 * kls[0]


def test_transformers_and_a_teacher_of_another_size(tmp_path: Path) -> None:
    """A dense student; its teacher is wider, and then one that cannot compute prefix trees."""
    student = load_policy(llama(tmp_path / "student", torch.float32))
    torch.manual_seed(1)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    ).save_pretrained(tmp_path / "teacher")
    groups = groups_of(student)
    config = ObjectiveConfig(distill=TeachingConfig(teachers={"default": str(tmp_path / "teacher")}), temperature=0.7)
    wanted, value, _ = by_hand(student, groups, config)
    found, metrics = gradient(student, groups, tmp_path, objective=config)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5
    assert metrics["loss/distill"] == pytest.approx(value, rel=1e-5)
    assert metrics["learner/sharing"] > 1.5
    trainer = Learner(student, LearnerConfig(threads=1), config, tmp_path)
    trainer.teachers.of("search").policy._can_share = False  # type: ignore[union-attr]
    flat = trainer.step(groups)
    assert flat["learner/sharing"] == 1.0
    assert flat["loss/distill"] == pytest.approx(value, rel=1e-5)


def test_what_is_packed_together(policy: Policy, teachers: dict[str, str]) -> None:
    groups = families(policy)
    for group in groups:
        for trajectory in group.trajectories:
            trajectory.reward = 1.0  # no advantage
    items = items_of(groups, objective(teachers, reward_weight=1.0), 0, True, BatchSize(), [])
    assert {item.taught for item in items} == set(teachers), "without a teacher nothing is learned from equal rewards"
    assert all(isinstance(item, PackItem) for item in items)


def test_a_vocabulary_of_another_size_is_refused(policy: Policy, tmp_path: Path) -> None:
    build_policy(tiny_config() | {"vocab_size": 40}).save(tmp_path / "other")
    config = ObjectiveConfig(distill=TeachingConfig(teachers={"default": str(tmp_path / "other")}))
    with pytest.raises(ValueError, match=r"vocabulary of 40 tokens, the policy one of 32"):
        Learner(policy, LearnerConfig(threads=1), config, tmp_path)


@pytest.mark.parametrize("form", ["full", "sampled"])
def test_adapters_of_one_base_share_it(policy_config: dict[str, Any], tmp_path: Path, form: str) -> None:
    """They teach what the merged policies teach, and leave the policy's own adapter as it was."""
    lora, teachers = LoraConfig(rank=2), {}
    for n, family in enumerate(FAMILIES[:2]):
        specialist = LoraPolicy(build_policy(policy_config), lora.rank, lora.alpha, lora.modules)
        torch.manual_seed(n)
        for name, value in specialist.named_parameters():
            if ".lora_B" in name:
                torch.nn.init.normal_(value, std=0.1)
        for kind in ("adapter", "merged"):
            (tmp_path / kind / family).mkdir(parents=True)
        specialist.save_adapter(tmp_path / "adapter" / family)
        specialist.save(tmp_path / "merged" / family)
        teachers[family] = str(tmp_path / "{}" / family)
    found = []
    for kind in ("adapter", "merged"):
        own = {family: path.format(kind) for family, path in teachers.items()}
        student = build_policy(policy_config)
        groups = families(student)
        found.append(gradient(student, groups, tmp_path, objective=objective(own, form=form), lora=lora))
    (shared, one), (apart, other) = found
    assert float((shared - apart).norm() / apart.norm()) < 1e-4
    assert one["distill/kl/code"] == pytest.approx(other["distill/kl/code"], rel=1e-4)
    assert abs(one["distill/kl/code"]) > 0.01
    own = {family: path.format("adapter") for family, path in teachers.items()}
    with pytest.raises(ValueError, match="the policy that it is to teach has none"):
        Learner(build_policy(policy_config), LearnerConfig(threads=1), objective(own), tmp_path)
