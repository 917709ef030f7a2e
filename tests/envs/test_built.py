"""BuiltTaskset: the tasks of a data set, played by their own families; and what it refuses."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from envs.built import BuiltTaskset
from envs.check import check_taskset
from envs.episode import play_episode
from envs.factory.builder import build
from envs.factory.plan import plan_of
from envs.mixture import MixTaskset
from rl.run.assemble import open_taskset, open_tasksets


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four easy tiers in one data set."""
    out = tmp_path_factory.mktemp("built") / "easy"
    settings = {"search": {"top_k": 3}}
    plan = plan_of({"mix": "v32", "tier": "easy", "share": 0.001, "heldout": 6, "settings": settings})
    build(plan, out, 0, "envs-build …")
    return out


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "agent"
    build(plan_of({"family": "agent", "tier": "easy", "n": 30, "heldout": 20}), out, 0, "envs-build …")
    return out


def test_it_serves_each_row_once_in_a_seeded_order(easy: Path) -> None:
    one = BuiltTaskset("train", 0, path=easy)
    assert len(one) == 25 + 50 + 4 + 6
    tasks = [one.task(i) for i in range(len(one))]
    assert len({t.id for t in tasks}) == len(tasks)
    assert Counter(t.family for t in tasks) == {"code": 25, "search": 50, "agent": 4, "interpreter": 6}
    assert list(BuiltTaskset("train", 0, path=easy)) == tasks
    other = [task.id for task in BuiltTaskset("train", 1, path=easy)]
    assert other != [t.id for t in tasks]
    assert sorted(other) == sorted(t.id for t in tasks)
    assert [t.id for t in pickle.loads(pickle.dumps(one))] == [t.id for t in tasks]
    assert len(pickle.dumps(one)) < 20_000
    assert len(BuiltTaskset("train", 0, 10, path=easy)) == 10
    assert len(BuiltTaskset("train", 0, 10_000, path=easy)) == 85


def test_families_take_turns_where_an_evaluation_begins(easy: Path) -> None:
    heldout = BuiltTaskset("heldout", 0, 8, path=easy)
    assert Counter(heldout.task(i).family for i in range(8)) == dict.fromkeys(
        ("search", "code", "interpreter", "agent"), 2
    )
    assert len(BuiltTaskset("heldout", 0, path=easy, balance=False)) == 24


def test_every_family_plays_its_own(easy: Path) -> None:
    taskset = BuiltTaskset("heldout", 0, path=easy)
    for index in range(8):
        task = taskset.task(index)
        environment = taskset.environment(task)
        _, scores = play_episode(task, environment, environment.oracle)
        assert scores["outcome"] == 1.0
        assert getattr(environment, "top_k", 3) == 3  # the settings of the build
    assert taskset.verify(taskset.task(0)) is None
    other = BuiltTaskset("heldout", 0, path=easy, settings={"search": {"top_k": 1}}).members["search"]
    assert other.environment(other.task(0)).top_k == 1  # type: ignore[attr-defined]


def test_it_keeps_the_promises_of_a_taskset(agent: Path) -> None:
    findings = check_taskset(lambda split: BuiltTaskset(split, path=agent), tasks=5)
    assert [f for f in findings if f.status == "FAILED"] == []


def test_inside_a_mixture_and_as_a_mixture(easy: Path, agent: Path) -> None:
    members = BuiltTaskset("train", 0, path=easy).members
    assert {m.family: len(m) for m in members.values()} == {"code": 25, "search": 50, "agent": 4, "interpreter": 6}
    families = {"built": 1.0, "interpreter": 1.0}
    mix = MixTaskset("train", 0, families=families, settings={"built": {"path": str(agent)}})
    tasks = [mix.task(i) for i in range(200)]  # more than the 30 rows: they come again
    assert Counter(t.family for t in tasks) == {"agent": 100, "interpreter": 100}
    assert type(mix.environment(tasks[0])).__name__ == "AgentEnvironment"
    with pytest.raises(ValueError, match=r"same Taskset\.family 'interpreter'"):
        MixTaskset("train", 0, families=families, settings={"built": {"path": str(easy)}})


def test_runs_and_their_caches_know_the_data_set(easy: Path, agent: Path) -> None:
    from configs.schema import EvalConfig

    env = {"_target_": "envs.built.BuiltTaskset", "path": str(easy)}
    tasksets = open_tasksets(env, 0, EvalConfig(n_tasks=2))
    assert (len(tasksets["train"]), len(tasksets["heldout"])) == (85, 8)
    assert tasksets["train"].fingerprint() != open_taskset(env | {"path": str(agent)}, "train", 0).fingerprint()


def test_what_is_refused(agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(match: str, **settings: Any) -> None:
        with pytest.raises(ValueError, match=match):
            BuiltTaskset(**{"path": agent, **settings})

    refused("path is missing", path="")
    refused("no such folder; make it with envs-build", path=tmp_path / "nothing")
    refused("not by envs-build", path=tmp_path)
    (tmp_path / ".build").mkdir()
    refused("is not finished: run its envs-build command again", path=tmp_path)
    refused("family=search: .* has agent", family="search")
    refused(r"settings\.code: no such family", settings={"code": {}})
    half = tmp_path / "half"
    shutil.copytree(agent, half)
    shutil.rmtree(half / "heldout")
    refused("split=heldout: .* has only train", path=half, split="heldout")
    about = json.loads((half / "build.json").read_text())
    (half / "build.json").write_text(json.dumps(about | {"format": 0}))
    refused("has format 0, this version reads 1", path=half)
    monkeypatch.setattr("envs.agent.taskset.AgentTaskset.version", 2)
    refused("is of version 2, the data set was built with version 1: build it again")
