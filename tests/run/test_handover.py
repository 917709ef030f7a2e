"""Groups in parts: what planning sees of a record, records that are fetched where they are used, a worker that dies."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_segments import group as one_group
from recorded_segments import recorded, recording_policy
from test_batches import same

from rl.learner.config import LearnerConfig, ReplayConfig
from rl.learner.learner import Learner
from rl.objective.config import ObjectiveConfig
from rl.policy.handover import PARTS, GroupRefs, StoredRecord, divided, opened, whole
from rl.policy.loading import build_policy
from rl.policy.record_outline import outline_of
from rl.run.batches import load_batch, save_batch
from rl.run.beside import Beside
from rl.run.finished import FinishedGroups
from rl.tracking.handed import handed_bytes, handed_metrics
from rl.tracking.rundir import RunDir
from rl.types import Group, ReplayRecord


def group(number: int = 0, top_k: int = 0) -> Group:
    """Four rollouts, the last two alike and masked."""
    (made,) = one_group(*(recorded(min(seed, 2), top_k=top_k) for seed in range(4)))
    for i, t in enumerate(made.trajectories):
        t.reward = float(i % 2)
        t.failure_kind = "env_error" if i > 1 else None
    return replace(made, id=number, task_index=10 + number)


def test_an_outline_tells_rows_apart_as_the_records_do() -> None:
    """Narrow choices as they are, wide ones (an indexer's) by a digest; supports by theirs."""
    rng = np.random.default_rng(0)
    tokens, valid = rng.integers(0, 3, 60), rng.random(60) < 0.8
    for width in (2, 40):
        record = ReplayRecord(
            valid,
            rng.integers(0, 2, (60, 1, 2)).astype(np.uint8),
            rng.integers(0, 2, (60, 1, 1)).astype(np.int16).repeat(width, 2),
            [None if t % 3 else np.array([t % 2, 7]) for t in range(60)],
        )
        outline = outline_of(tokens, record)
        assert outline.rows.shape == (60, 5 + (2 + 2 * width if width == 2 else 16))
        assert outline.recorded == {"experts", "indexer", "support"}
        for i in range(60):
            for j in range(i):
                alike = tokens[i] == tokens[j] and valid[i] == valid[j]
                alike = alike and all((r[i] == r[j]).all() for r in (record.experts, record.indexer) if r is not None)
                assert alike == (outline.rows[i] == outline.rows[j]).all()
        assert outline.supports is not None
        assert len(set(outline.supports.tolist())) == 3
        assert (outline.supports == 0).tolist() == [t % 3 > 0 for t in range(60)]
    assert outline_of(tokens, None).rows.shape == (60, 5)


def test_a_stored_record_is_the_record() -> None:
    for top_k in (0, 3):
        record = recorded(0, top_k=top_k).replay
        assert record is not None
        back = StoredRecord.of(record).record()
        segment = recorded(0, top_k=top_k)
        assert same(*(one_group(replace(segment, replay=r))[0] for r in (record, back)))


@pytest.fixture(scope="module")
def handed(local_ray: None) -> list[Group]:
    """Two groups as the driver has them, of a worker that is dead by now."""
    import ray

    class Hands:
        async def hand_over(self, made: Group) -> tuple[Any, ...]:
            made.handed = handed_bytes(made.trajectories)
            return divided(made)

    worker: Any = ray.remote(num_cpus=0)(Hands).remote()
    hand_over = worker.hand_over.options(num_returns=PARTS + 4)
    refs = [GroupRefs.of(hand_over.remote(group(i, top_k=3))) for i in range(2)]
    groups = ray.get([one.books for one in refs], timeout=120)
    for one, own in zip(groups, refs, strict=True):
        one.refs = own
    ray.kill(worker, no_restart=True)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(worker.hand_over.remote(group()), timeout=60)
    return groups


def trained(groups: list[Group], folder: Path) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    start = recording_policy().module.state_dict()
    policy = build_policy(
        {"preset": "tiny_dsa", "vocab_size": recording_policy().vocab_size, "overrides": recording_sizes()}
    )
    policy.module.load_state_dict(start)
    config = LearnerConfig(lr=1e-3, max_tokens_per_microbatch=64, threads=1, warmup_steps=0)
    learner = Learner(policy, config, ObjectiveConfig(), folder, replay=ReplayConfig(indexer="force"))
    metrics = learner.step(groups)
    return metrics, {name: np.array(value) for name, value in learner.weights().items()}


def recording_sizes() -> dict[str, Any]:
    config = recording_policy().module.config.to_dict()
    names = (
        "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
        "index_n_heads", "index_head_dim", "index_topk",
    )  # fmt: skip
    return {name: config[name] for name in names}


def test_what_a_dead_worker_has_handed_over_is_trained_on(
    handed: list[Group], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver holds no record; the learner takes the step that it takes on whole groups, and fetches no record of a
    rollout that it does not train on."""
    assert all(s.replay is None for g in handed for t in g.trajectories for s in t.segments)
    fetched: list[tuple[Any, int]] = []
    from rl.policy import handover

    plain = handover._fetched
    monkeypatch.setattr(handover, "_fetched", lambda ref, i, s: (fetched.append((ref, i)), plain(ref, i, s))[1])
    metrics, weights = trained(opened([g.refs for g in handed], 60.0), tmp_path)
    kept = {ref for g in handed for ref in g.refs.records[:2]}
    assert {ref for ref, _ in fetched} == kept
    expected, wanted = trained([group(0, top_k=3), group(1, top_k=3)], tmp_path)
    times = {"learner/seconds", "learner/tokens_per_s"}
    assert {k: v for k, v in metrics.items() if k not in times} == {k: v for k, v in expected.items() if k not in times}
    assert metrics["replay/rows"] > 0
    assert all(np.array_equal(weights[name], wanted[name]) for name in wanted)


def test_choices_are_as_wide_as_they_were_recorded(handed: list[Group], tmp_path: Path) -> None:
    """2 MoE layers of 2 experts, 3 indexers of 12 int16 rows and a bit of validity: 4 + 72 + 1 bytes a token."""
    metrics, _ = trained([group()], tmp_path)
    record = group().trajectories[0].segments[0].replay
    assert record is not None
    assert record.experts is not None
    assert record.indexer is not None
    row = record.experts[0].nbytes + record.indexer[0].nbytes + 1
    assert metrics["bytes/packed"] == row


def test_files_are_those_of_whole_groups(handed: list[Group], tmp_path: Path) -> None:
    """Finished groups and stored batches are written beside the driver, and read back as they were played."""
    for one, number in zip(handed, range(2), strict=True):
        found = replace(whole(opened([one.refs], 60.0)[0]), handed={})
        assert same(found, group(number, top_k=3))
    first = FinishedGroups(tmp_path / "finished", "same", 2**30, 2, print)
    for one in handed:
        first.put(one)
    first.flush()
    again = FinishedGroups(tmp_path / "finished", "same", 2**30, 2, print)
    back = again.take(1, 11, 3, 0)
    assert back is not None
    assert same(back, group(1, top_k=3))
    from rl.rollout.config import RolloutConfig

    run = RunDir(tmp_path)
    save_batch(run, 1, 0, handed, RolloutConfig(), lambda folder: folder.mkdir(), keep=1)
    for one, number in zip(load_batch(run).groups, range(2), strict=True):
        assert same(one, group(number, top_k=3))


def test_one_process_makes_the_files(handed: list[Group]) -> None:
    """A process for each file costs more than all that is written; one that dies is followed by another."""
    beside = Beside()
    first, second = (beside.get(beside.call(os.getpid)) for _ in range(2))
    assert first == second != os.getpid()
    os.kill(first, signal.SIGKILL)
    assert beside.get(beside.call(os.getpid)) not in (first, os.getpid())


def test_bytes_that_pass_through_the_driver(handed: list[Group]) -> None:
    metrics = handed_metrics(handed)
    assert metrics["bytes/driver"] == 13, "tokens, mask, log-probs and versions, once"
    there_and_back = handed_metrics([group(top_k=3)])
    assert metrics["bytes/total"] == there_and_back["bytes/total"]
    assert there_and_back["bytes/driver"] == 2 * there_and_back["bytes/total"]


def test_lost_parts_are_said(handed: list[Group], tmp_path: Path) -> None:
    """As when the machine they were on is gone: the group is not kept, by name; a learner that wants it begins anew."""
    import ray

    from rl.learner.group import LearnerGroup, LearnerLost

    def never() -> None:
        raise ray.exceptions.ObjectLostError("0" * 56, None, "")

    lost = ray.remote(num_cpus=0, max_retries=0)(never).remote()  # to get it raises what a lost machine's part raises
    gone = replace(handed[0], refs=replace(handed[0].refs, records=(lost,) * 4))
    said: list[str] = []
    finished = FinishedGroups(tmp_path / "finished", "same", 2**30, 2, said.append)
    finished.put(gone)
    finished.flush()
    assert said == ["group 0 is not kept for a resume: its rollouts went with the machine they were on"]

    class Rank:
        def step(self, groups: list[GroupRefs]) -> None:
            for one in opened(groups, 60.0):
                whole(one)

    learner = LearnerGroup(lambda rank, **options: ray.remote(num_cpus=0)(Rank).remote(), 1, 0.0)
    with pytest.raises(LearnerLost, match="rollouts went with the machine"):
        learner.get("its step", learner.call("step", [gone.refs]), 60.0)
    learner.kill()
