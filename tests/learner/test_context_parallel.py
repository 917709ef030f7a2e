"""Ranks that share micro-batches, each with a part of their rows: the learner is that of one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from moe_families import FAMILIES, write
from rank_processes import Case, Lesson, end_ranks, learn, run_ranks, teach
from test_open_batch import batch
from test_precision import llama
from test_ranks import CASES, assert_ranks, taught_cases
from test_shared_step import groups_of
from test_trainer_ranks import CASES as LESSONS
from test_trainer_ranks import assert_equal as assert_taught
from test_trainer_ranks import some
from train_runs import train_config

from envs.types import StopReason
from rl.learner.config import MeansConfig
from rl.learner.deal import PIECES, row_shares
from rl.policy.checkpoint_checks import check_context
from rl.policy.context_parallel import ContextGroup, RowShare, RowSplit
from rl.policy.flops import CostModel
from rl.policy.loading import build_policy, load_policy
from rl.policy.prefix_tree import PrefixTree
from rl.run.preflight import check_shared_rows
from rl.types import Group, Trajectory
from tests.learner.conftest import groups_by, sample_segment, tiny_config

Groups = Callable[..., list[Group]]
COST = CostModel(parameters=10, attention=3)
ROOM = 64  # tokens of a micro-batch in rank_processes


def group_of(lengths: list[int], prompt: int) -> Group:
    """Rollouts of so many tokens with one prompt, by the tiny policy; the first one is the better one."""
    policy, rng = build_policy(tiny_config()), np.random.default_rng(3)
    start = rng.integers(0, policy.vocab_size, prompt)
    group = Group(0, 0, "task", "search", 0)
    for i, length in enumerate(lengths):
        tokens = np.concatenate((start, rng.integers(0, policy.vocab_size, length - prompt)))
        part = sample_segment(policy, tokens, prompt, version=0)
        group.trajectories.append(
            Trajectory(f"0-{i}", "task", "search", [part], [], StopReason.ANSWERED, float(i == 0))
        )
    return group


def shared_cases(place: Path) -> dict[str, Case]:
    """Ours on trees and flat, with every way to score and to replay; dense and sparse models of transformers."""
    build_policy(tiny_config()).save(place / "policy")
    make = groups_by(build_policy(tiny_config()))
    one = [batch(make)]
    wanted = ("kl", "indexer", "bfloat16", "lora")
    cases = {name: Case(place / "policy", one, o, s, r) for name, o, s, r in CASES if name in wanted}
    cases["kl"].batches = [*one, batch(make, seed=1)]
    alike = [groups_of(load_policy(place / "policy"))]  # branches and repetitions; they share most of their rows
    cases["trees"] = Case(place / "policy", alike, replay={"indexer": "force"})
    flat = {"share_prefixes": False, "recompute": True, "head_rows": 7}
    cases["flat"] = Case(place / "policy", alike, settings=flat, replay={"indexer": "check", "routing": "check"})
    folders = {"llama": llama(place / "llama", torch.float32)}
    folders |= {family: write(family, place / family) for family in FAMILIES[::2]}
    cases |= {name: Case(folder, [groups_of(load_policy(folder))]) for name, folder in folders.items()}
    cases["llama, flat"] = replace(cases["llama"], settings=flat)
    cases["taught"] = taught_cases(place, make)["taught"]
    cases["taught"].batches = cases["taught"].batches[:1]
    # One node, whose two targets are both on the first rank; and rows of one that fits no rank alone.
    cases["a rank without rows"] = Case(place / "policy", [[group_of([2, 2], prompt=1)]])
    cases["too long for one"] = Case(place / "policy", [[group_of([ROOM + 30, 20, 21], prompt=9)]])
    return cases


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("context")


@pytest.fixture(scope="module")
def two(place: Path) -> tuple[dict[str, Case], list[list[dict[str, Any]]]]:
    """Cases, and what two ranks that share their micro-batches have made of each."""
    cases = shared_cases(place)
    return cases, run_ranks(2, 2, list(cases.values()), place / "ranks", context=2)


def test_two_ranks_that_share_micro_batches_do_what_one_process_does(
    two: tuple[dict[str, Case], list[list[dict[str, Any]]]], tmp_path: Path
) -> None:
    """Loss, gradient and every metric, each record used once."""
    cases, found = two
    for n, (name, case) in enumerate(cases.items()):
        alone = replace(case, settings={"max_tokens_per_microbatch": 2 * ROOM} | case.settings)
        assert_ranks(found[0][n], [rank[n] for rank in found], alone, tmp_path, name)


def test_what_is_too_long_for_one_rank_is_refused_without_another(
    two: tuple[dict[str, Case], list[list[dict[str, Any]]]], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"a segment of 93 tokens .*=64; .*\(learner.context_parallel\)"):
        learn(two[0]["too long for one"], tmp_path)


def test_two_ranks_that_share_micro_batches_teach_what_one_process_does(place: Path, tmp_path: Path) -> None:
    """Dense attention, then sparse, with the router's balance; the indexer alone. A document is as long as two ranks
    take."""
    batches = [some(5, seed=0), some(6, seed=1)]
    lessons = [Lesson(tiny_config() | p, batches, s, m) for _, p, s, m in LESSONS[:2]]
    lessons[0].then = "sparse"
    longest = max(len(e.tokens) for e in chain(*batches))
    for lesson in lessons:
        lesson.settings = lesson.settings | {"max_tokens_per_microbatch": -(-longest // 2)}
    found = run_ranks(2, 2, lessons, tmp_path / "ranks", context=2)
    for n, lesson in enumerate(lessons):
        alone = replace(lesson, settings=lesson.settings | {"max_tokens_per_microbatch": longest + 1})
        # The indexer alone: its gradient is what two nearly equal distributions differ by.
        assert_taught(found[0][n], teach(alone), (2e-6, 5e-6)[n], LESSONS[n][0])


@pytest.mark.slow
@pytest.mark.parametrize(("shards", "experts", "context"), [(4, 1, 2), (2, 2, 2), (4, 4, 2), (4, 2, 4)])
def test_with_copies_and_experts_that_are_spread(tmp_path: Path, shards: int, experts: int, context: int) -> None:
    """Four ranks: two groups of two, or all four; one copy of the weights or two; experts over ranks of one group, and
    of both."""
    build_policy(tiny_config()).save(tmp_path / "policy")
    make = groups_by(build_policy(tiny_config()))
    batches = [batch(make), batch(make, seed=1)]
    cases = {n: Case(tmp_path / "policy", batches, o, s, r) for n, o, s, r in CASES if n in ("kl", "indexer", "flat")}
    family = write("qwen3_moe", tmp_path / "qwen3_moe")
    cases["qwen3_moe"] = Case(family, [groups_of(load_policy(family))])
    end_ranks()  # torch keeps meshes of one shape, and would take groups of another job for theirs
    found = run_ranks(4, shards, list(cases.values()), tmp_path / "ranks", experts, context)
    for n, (name, case) in enumerate(cases.items()):
        assert_ranks(found[0][n], [rank[n] for rank in found], case, tmp_path, name)


def test_row_shares_by_hand() -> None:
    """Eight rows of one sequence, one a piece: the last ones attend to most, so each goes where least is so far."""
    assert row_shares(np.arange(8), COST, 2) == [[(0, 1), (3, 5), (7, 8)], [(1, 3), (5, 7)]]
    assert row_shares(np.arange(1), COST, 3) == [[(0, 1)], [], []]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(2, 5), st.booleans())
def test_every_row_is_one_ranks(lengths: list[int], ranks: int, shares: bool) -> None:
    """Rows and targets are dealt out once, about as many to each; queries are where their stretches say."""
    shared = [0, *(min(a, b) // 2 if shares else 0 for a, b in pairwise(lengths))]
    tree = PrefixTree(np.cumsum([0, *lengths]).tolist(), shared)
    dealt = row_shares(tree.depth_U.numpy(), COST, ranks)
    splits = [RowSplit(tree, dealt, ContextGroup(rank, ranks, None)) for rank in range(ranks)]
    own = [split.node_R[: split.own] for split in splits]
    assert sorted(torch.cat(own).tolist()) == list(range(tree.nodes))
    assert max(map(len, own)) - min(map(len, own)) <= PIECES
    assert sum(int(split.count_R.sum()) for split in splits) == len(tree.node_T)
    gathered = torch.cat([split.node_R for split in splits])
    for split in splits:
        assert torch.equal(gathered[split.place_T], tree.node_T)
        nodes = torch.full((split.rows,), -1)
        for stretch in split.stretches:
            rows = torch.arange(stretch.begin, stretch.end)
            nodes[stretch.at : stretch.at + len(rows)] = tree.node_T[tree.bounds[stretch.seq] + rows]
        assert torch.equal(nodes, split.node_R)
    asked = torch.arange(0, len(tree.node_T), 2)
    targets = [RowShare(split, asked) for split in splits]
    assert sorted(torch.cat([t.mine for t in targets]).tolist()) == list(range(len(asked)))
    for split, share in zip(splits, targets, strict=True):
        assert torch.equal(split.node_R[share.rows], tree.node_T[asked[share.mine]])


def test_a_long_sequence_is_split_evenly_by_flops() -> None:
    depths, cost = np.arange(4096), CostModel(parameters=1000, attention=64)
    for ranks in (2, 4, 8):
        shares = row_shares(depths, cost, ranks)
        flops = [sum(cost.forward(cost.at(depths[a:b] + 1)) for a, b in share) for share in shares]
        assert max(flops) / min(flops) < 1.02
    with pytest.raises(ValueError, match="overlap"):
        RowSplit(PrefixTree([0, 4], [0]), [[(0, 2)], [(1, 3)]], ContextGroup(0, 2, None))


def test_settings_that_cannot_share_micro_batches(tmp_path: Path) -> None:
    from transformers import MistralConfig

    with pytest.raises(ValueError, match=r"learner.context_parallel=3: must divide learner.ranks=4"):
        MeansConfig(ranks=4, context_parallel=3)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    MistralConfig(vocab_size=32, sliding_window=8, num_key_value_heads=2, **sizes).save_pretrained(tmp_path)
    check_shared_rows(tmp_path, 1)
    with pytest.raises(ValueError, match=r"context_parallel=2: rows of MistralForCausalLM cannot be split.*; use 1"):
        check_shared_rows(tmp_path, 2)
    check_context(load_policy(llama(tmp_path / "llama", torch.float32)).module, 2)
    long = ["rollout.max_context=1000", "learner.max_tokens_per_microbatch=500"]
    with pytest.raises(ValueError, match=r"microbatch=500: must be at least .*=1000, .*\(learner.context_parallel"):
        train_config(*long)
    both = train_config(*long, "learner.ranks=2", "learner.context_parallel=2")
    assert both.learner.room == 1000
    assert (both.learner.tokens_for(700), both.learner.tokens_for(1401)) == (500, 701)
