"""The policy that users get, written by two ranks from their shards: the files of one process, byte for byte."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moe_families import write
from rank_processes import Case, Lesson, learn, run_ranks, teach
from test_open_batch import batch
from test_precision import llama
from test_trainer_ranks import examples

from rl.policy.checkpoint_files import CheckpointFiles
from rl.policy.loading import build_policy, load_policy
from rl.policy.lora import merge
from tests.learner.conftest import groups_by, tiny_config

BFLOAT16 = {"compute_dtype": "bfloat16"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def cases(place: Path) -> dict[str, Case]:
    policy = build_policy(tiny_config())
    policy.save(place / "policy")
    folders = {"ours": place / "policy", "llama, bfloat16": llama(place / "llama", torch.float32)}
    folders["qwen3_moe, bfloat16"] = write("qwen3_moe", place / "qwen3_moe")
    found = {
        name: Case(folder, [], settings=BFLOAT16 if "bfloat16" in name else {}, export=place / name)
        for name, folder in folders.items()
    }
    trained = [batch(groups_by(policy))]
    settings = {"lora": {"rank": 2}} | BFLOAT16
    found["lora"] = Case(place / "policy", trained, settings=settings, export=place / "lora")
    return found


@pytest.fixture(scope="module")
def ranks(cases: dict[str, Case], place: Path) -> list[dict[str, dict[str, torch.Tensor]]]:
    found = run_ranks(2, 2, list(cases.values()), place / "job")
    return [{name: one["weights"] for name, one in zip(cases, rank, strict=True)} for rank in found]


@pytest.mark.parametrize("name", ["ours", "llama, bfloat16", "qwen3_moe, bfloat16"])
def test_two_ranks_write_the_files_of_one_process(
    cases: dict[str, Case], ranks: list[dict[str, dict[str, torch.Tensor]]], tmp_path: Path, name: str
) -> None:
    case = replace(cases[name], export=tmp_path / "alone")
    learn(case, tmp_path)
    one, two = ({f.name: f.read_bytes() for f in case.export.iterdir()} for case in (case, cases[name]))
    assert one.keys() >= {"config.json", "model.safetensors"}
    assert one == two
    if name.startswith("llama"):
        assert json.loads(one["config.json"])["tie_word_embeddings"]
        assert "lm_head.weight" not in CheckpointFiles(tmp_path / "alone").names, "once"


def test_an_adapter_of_two_ranks_is_merged(
    cases: dict[str, Case], ranks: list[dict[str, dict[str, torch.Tensor]]]
) -> None:
    """What is saved is what the engines compute with, rounded to the dtype that is saved."""
    sent = ranks[0]["lora"]
    base = {n: v for n, v in sent.items() if ".lora_" not in n}
    wanted = merge(base, {n: v for n, v in sent.items() if n not in base})
    saved = load_policy(cases["lora"].export).weights()
    changed = 0
    for key, value in saved.items():
        assert torch.equal(value, wanted[key].to(base[key].dtype).float()), key
        changed += not torch.equal(value, base[key].float())
    assert changed > 10


def test_a_supervised_stage_writes_what_it_trained(place: Path, tmp_path: Path) -> None:
    """In float32 whatever it computes in; one rank's files are another's."""
    lesson = Lesson({"path": str(place / "policy")}, [examples(4)], BFLOAT16, save=tmp_path / "two")
    found = run_ranks(2, 2, [lesson], tmp_path / "job")
    saved = load_policy(tmp_path / "two").weights()
    assert all(torch.equal(saved[name], value) for name, value in found[0][0]["weights"].items())
    assert {value.dtype for _, value in CheckpointFiles(tmp_path / "two").stream()} == {torch.float32}
    teach(replace(lesson, save=tmp_path / "one"))
    assert (tmp_path / "one" / "config.json").read_bytes() == (tmp_path / "two" / "config.json").read_bytes()
