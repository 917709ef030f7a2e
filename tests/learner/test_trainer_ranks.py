"""Supervised training by several ranks is that of one process: gradients, metrics, router bias, evaluation, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from rank_processes import Lesson, run_ranks, teach
from test_learner_sft import examples
from test_precision import llama

from configs.schema import SupervisedConfig
from rl.chat.tokenizer import copy_tokenizer
from rl.data.corpus import Document
from rl.learner.config import MeansConfig
from rl.learner.trainer import Means
from rl.policy.loading import build_policy, load_policy
from rl.recipes.supervised import supervised
from rl.run.paths import resolve
from rl.types import TokenStream
from tests.learner.conftest import tiny_config

TIMES = {"sft/tokens_per_s"}
CASES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [  # name, of the policy, settings, means
    ("dense, then sparse", {"mode": "dense"}, {"router_bias_gamma": 0.01, "indexer_kl_every": 2}, {}),
    ("indexer alone", {"mode": "dense"}, {"indexer_only": True}, {}),
    ("recomputed", {}, {"router_bias_gamma": 0.01}, {"recompute": True, "head_rows": 7}),
    ("bfloat16", {}, {"compute_dtype": "bfloat16"}, {}),
]


def some(count: int, seed: int) -> list[TokenStream]:
    """Of different lengths; one without a target, which nobody runs."""
    untaught = TokenStream(np.arange(9), np.zeros(9, bool))
    return [*examples(count, seed), untaught]


def assert_equal(found: dict[str, Any], wanted: dict[str, Any], close: float, name: str) -> None:
    for here, there in zip(found["gradients"], wanted["gradients"], strict=True):
        assert float((here - there).norm() / there.norm()) < close, name
    for one, other in [*zip(found["metrics"], wanted["metrics"], strict=True), (found["scores"], wanted["scores"])]:
        assert one.keys() == other.keys(), name
        for key in one.keys() - TIMES:
            assert one[key] == pytest.approx(other[key], rel=20 * close, abs=close), (name, key)
    assert {**found["figures"], "threads": 0} == {**wanted["figures"], "threads": 0}, name
    for key, value in wanted["weights"].items():  # they differ by what AdamW makes of a gradient near 0
        assert torch.allclose(found["weights"][key], value, atol=3e-3), (name, key)
        if key.endswith("correction_bias"):
            assert torch.equal(found["weights"][key], value), (name, key)


def test_ranks_teach_what_one_process_does(tmp_path: Path) -> None:
    batches = [some(5, seed=0), some(6, seed=1)]
    lessons = [Lesson(tiny_config() | p, batches, s, m) for _, p, s, m in CASES]
    lessons[0].then = "sparse"
    lessons.append(Lesson({"path": str(llama(tmp_path / "llama", torch.float32))}, batches))
    lessons[0].save = tmp_path / "saved"
    found = run_ranks(2, 2, lessons, tmp_path / "ranks")
    saved = load_policy(tmp_path / "saved").weights()
    assert all(torch.equal(value, saved[name]) for name, value in found[0][0]["weights"].items() if name in saved)
    for n, (name, lesson) in enumerate(zip([*(name for name, *_ in CASES), "llama"], lessons, strict=True)):
        lesson.save = None
        assert_equal(found[0][n], teach(lesson), 2e-2 if name == "bfloat16" else 2e-6, name)
        assert all(rank[n]["metrics"][-1]["sft/loss"] == found[0][n]["metrics"][-1]["sft/loss"] for rank in found)


def test_a_stage_in_a_group_of_actors(local_ray: None, tmp_path: Path) -> None:
    """The whole of a cold start's training by two ranks and by one in an actor: as here."""
    base = resolve("pkg://rl.bases/tiny_dsa_base")
    build_policy(tiny_config() | {"vocab_size": 1024}).save(tmp_path / "base")
    copy_tokenizer(base, tmp_path / "base")
    documents = [Document(e.tokens, e.loss_mask, source="count") for e in examples(12)]
    config = SupervisedConfig(epochs=1.0, tokens_per_step=128, threads=1, indexer_kl_every=2)
    seen: dict[str, list[float]] = {"here": [], "ranks": []}
    figures = {}
    for name, means in (("here", Means()), ("ranks", Means(MeansConfig(ranks=2), timeout_s=240.0))):
        report = lambda _, done, total, metrics, to=seen[name]: to.append(metrics["sft/loss"])  # noqa: E731
        figures[name] = supervised(tmp_path / "base", config, documents, 0, tmp_path / name, report, means)
        assert (tmp_path / name / "tokenizer.json").is_file()
    assert len(seen["here"]) > 1
    assert seen["ranks"] == pytest.approx(seen["here"], rel=1e-4)
    assert {**figures["ranks"], "final_loss": 0} == {**figures["here"], "final_loss": 0}
    here, there = (load_policy(tmp_path / name).weights() for name in ("here", "ranks"))
    assert all(torch.allclose(there[key], value, atol=5e-3) for key, value in here.items())
    assert not [a for a in ray.util.list_named_actors() if a], "nothing is left of the group"


def test_where_a_trainer_runs() -> None:
    assert Means().actors == 0
    assert Means(gpus=1.0).actors == 1  # the driver need not be where the GPU is
    assert Means(MeansConfig(ranks=4)).actors == 4


def test_an_indexer_that_is_not_there_cannot_be_set(tmp_path: Path) -> None:
    described = {"path": str(llama(tmp_path / "llama", torch.float32)), "index_topk": 4}
    with pytest.raises(ValueError, match="index_topk is for policies with a DSA indexer"):
        build_policy(described)
