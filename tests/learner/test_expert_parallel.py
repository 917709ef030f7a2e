"""Experts of a layer spread over ranks: the learner is that of one process, and no rank holds them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from moe_families import FAMILIES, write
from rank_processes import Case, learn, run_ranks
from test_open_batch import batch
from test_ranks import CASES, assert_equal, taught_cases
from test_shared_step import groups_of

from rl.learner.config import LearnerConfig, LoraConfig
from rl.policy.checkpoint_checks import check_spread
from rl.policy.expert_parallel import expert_modules, spread
from rl.policy.loading import build_policy, load_policy
from rl.types import Group

Groups = Callable[..., list[Group]]


@pytest.mark.parametrize(
    ("size", "shards"), [(2, 2), pytest.param(4, 4, marks=pytest.mark.slow), pytest.param(4, 2, marks=pytest.mark.slow)]
)
def test_gradients_are_those_of_one_process(
    policy_config: dict, make_groups: Groups, tmp_path: Path, size: int, shards: int
) -> None:
    """On two ranks the experts are spread alone; on four their rows are split over the other two as well, or there are
    two copies (HSDP)."""
    build_policy(policy_config).save(tmp_path / "policy")
    batches = [batch(make_groups), batch(make_groups, seed=1)]
    wanted = ("plain", "kl", "indexer", "minibatches", "recompute", "bfloat16") if size == 2 else ("plain", "kl")
    chosen = [case for case in CASES if case[0] in wanted]
    cases = [Case(tmp_path / "policy", batches, o, s, r) for _, o, s, r in chosen]
    names = [name for name, *_ in chosen]
    if size == 2:
        folders = {family: write(family, tmp_path / family) for family in FAMILIES}
        cases += [Case(folder, [groups_of(load_policy(folder))]) for folder in folders.values()]
        names += folders
        taught = taught_cases(tmp_path, make_groups)["taught"]  # its teacher's experts are spread as well
        cases.append(taught)
        names.append("taught")
    saved = Case(tmp_path / "policy", batches[:1], save=tmp_path / "saved")
    found = run_ranks(size, shards, [*cases, saved], tmp_path / "ranks", experts=2)
    for n, (name, case) in enumerate(zip(names, cases, strict=True)):
        assert_equal(found[0][n], learn(case, tmp_path), 2e-2 if name == "bfloat16" else 2e-6, name)
    # One process goes on from their checkpoint: masters and moments of spread experts are whole in it.
    resumed = learn(Case(tmp_path / "policy", batches[1:], start=tmp_path / "saved/step_000001"), tmp_path)
    for name, value in resumed["weights"].items():
        assert torch.allclose(value, found[0][0]["weights"][name], atol=2e-3), name


def test_no_rank_holds_or_gathers_the_experts_of_others(policy_config: dict, tmp_path: Path) -> None:
    """One rank of two, alone: what is left of a layer's experts is half, by expert."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor

    policy = build_policy(policy_config)
    before = {id(m): m.gate_up_proj.shape for m in expert_modules(policy.module)}
    with fake_ranks(2):
        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("experts",))
        for module in expert_modules(policy.module):
            spread(module, mesh)
            weight = module.gate_up_proj
            assert isinstance(weight, DTensor)
            assert weight.shape == before[id(module)]
            assert weight.to_local().shape[0] == weight.shape[0] // 2
    assert before


@pytest.mark.parametrize(
    ("config", "ranks", "said"),
    [
        ({"n_routed_experts": 8}, 3, "learner.expert_parallel=3: must divide the 8 experts of a layer"),
        ({"hidden_size": 8}, 2, "learner.expert_parallel=2: it has no experts; use 1"),
    ],
)
def test_experts_that_cannot_be_spread_are_found_before_a_start(config: dict, ranks: int, said: str) -> None:
    check_spread(config, 1)
    with pytest.raises(ValueError, match=said):
        check_spread(config, ranks)


def test_settings_that_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"expert_parallel=4: must divide the ranks that split one copy .* here 2"):
        LearnerConfig(ranks=4, shard_ranks=2, expert_parallel=4)
    with pytest.raises(ValueError, match=r"expert_parallel=2 with learner.lora.rank=4: adapters of experts"):
        LearnerConfig(ranks=2, expert_parallel=2, lora=LoraConfig(rank=4))


@contextmanager
def fake_ranks(size: int) -> Iterator[None]:
    """This process as the first of ``size``; nobody answers, so nothing is sent."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()
