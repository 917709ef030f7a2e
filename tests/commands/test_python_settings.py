"""What the arguments of `rl.train` and `rl.evaluate` become; what is wrong with them, before anything starts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rl
from envs.taskset import Taskset
from rl.commands.hydra import composed
from rl.commands.python import Inputs, Run, model_overrides

SHIPPED = "pkg://rl.bases/tiny_dsa_base"
ROWS = [{"prompt": f"Say {n}.", "answer": str(n)} for n in range(30)]


def says_it(answer: str, row: dict[str, Any]) -> float:
    return float(row["answer"] in answer)


def test_importing_rl_loads_nothing_heavy() -> None:
    code = "import rl, sys; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'hydra', 'numpy')], dir(rl))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("[]")
    assert all(f"'{name}'" in done.stdout for name in ("train", "evaluate", "Run", "ConfigurationError"))
    with pytest.raises(AttributeError, match="module 'rl' has no attribute 'trian'"):
        rl.trian()


@pytest.mark.parametrize(
    ("data", "reward", "wanted"),
    [
        (None, None, []),
        ("search", None, ["env=search"]),
        ("search", "length_penalised", ["env=search", "reward=length_penalised"]),
        (None, "speciale", ["reward=speciale"]),
        ("rows.jsonl", "numeric", ["env=dataset", "env.path=rows.jsonl", "env.reward=numeric"]),
        ("a folder/rows.csv", None, ["env=dataset", "env.path='a folder/rows.csv'"]),
        (Path("search"), "my.module.reward", ["env=dataset", "env.path=search", "env.reward=my.module.reward"]),
        ("my_module.MyTaskset", None, ["env._target_=my_module.MyTaskset"]),
        ("my_module:MyTaskset", None, ["env._target_=my_module.MyTaskset"]),
        (Taskset, None, ["env._target_=envs.taskset.Taskset"]),
        (ROWS, says_it, ["env=dataset", "env.path=rows.jsonl", f"env.reward={__name__}.says_it"]),
    ],
)
def test_data_and_reward_become_overrides(data: Any, reward: Any, wanted: list[str]) -> None:
    assert Inputs().overrides(data, reward) == wanted


def test_an_agent_is_a_function_or_a_command() -> None:
    rows = ["env=own_agent", "env.path=rows.jsonl"]
    assert Inputs().overrides("rows.jsonl", None, "my.agent") == [*rows, "env.agent=my.agent"]
    assert Inputs().overrides("rows.jsonl", None, "python agent.py --n=3") == [
        *rows, "env.command='python agent.py --n=3'",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="it plays the rows of a data set"):
        Inputs().overrides("search", None, "python agent.py")


def test_what_has_no_place_in_a_configuration_becomes_files() -> None:
    inputs = Inputs()
    inputs.overrides(ROWS, lambda answer, row: float(answer == row["answer"]))
    rows, module = sorted(inputs.files, key=len)
    assert [json.loads(line) for line in inputs.files[rows].splitlines()] == ROWS
    assert "reward = (\n    lambda answer, row:" in inputs.files[module]
    again = Inputs()
    again.overrides(ROWS[:3], lambda answer, row: float(answer == row["answer"]))
    assert module in again.files  # named by its content


def test_the_preset_follows_from_the_model(tmp_path: Path) -> None:
    assert model_overrides(None) == []
    assert model_overrides(SHIPPED)[0] == "policy=deepseek_v32"
    cfg = composed("train", model_overrides(SHIPPED))
    assert (cfg.policy.path, cfg.policy.renderer) == (SHIPPED, "v32")
    for kind in ("llama", "glm_moe_dsa"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        cfg = composed("train", model_overrides(tmp_path))
        assert (cfg.policy.preset, cfg.policy.path, cfg.policy.renderer) == ("hf", str(tmp_path), "hf")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: rl.train(model="nowhere"), "model=nowhere: no such directory"),
        (lambda: rl.train(data=3), "data is a int: give a file, a list of dicts, a family's name or a Taskset class"),  # type: ignore[arg-type]
        (lambda: rl.train(data=[{"prompt": object()}]), "data: Object of type object is not JSON serializable; rows"),
        (lambda: rl.train(data="search", reward="exact"), "reward=exact: it scores the rows of a data set; give data="),
        (lambda: rl.train(data=ROWS, reward="exct"), "reward=exct: no such reward; for rows one of exact, numeric,"),
        (lambda: rl.train(data="rows.jsonl"), "path='rows.jsonl': there is no such file or folder"),
        (lambda: rl.train(data=ROWS, reward="no_module.f"), "reward=no_module.f: No module named 'no_module'"),
        (lambda: rl.train(data=[{"question": "?"}]), "prompt: no such column in "),
        (lambda: rl.train(data=ROWS, steps=0), "steps=0: must be at least 1"),
        (lambda: rl.train(resume="nothing"), "no run at 'runs/nothing'"),
        (lambda: rl.train(resume="nothing", steps=3), "resume=nothing goes on with the configuration in its config"),
        (lambda: rl.train(data=ROWS, runs_dir="file"), "runs_dir=file: 'file' is a file; give a directory"),
        (lambda: rl.evaluate(), "rl-eval needs one of run="),
        (lambda: rl.evaluate(run="nothing"), "no policy at 'runs/nothing/policy'"),
        (lambda: rl.evaluate(model=SHIPPED, run="a"), "rl-eval needs one of run="),
        (lambda: rl.evaluate(model=SHIPPED, data=[{"question": "?"}], out="out"), "prompt: no such column in "),
    ],
)
def test_a_wrong_argument_is_one_line_and_leaves_nothing(
    call: Callable[[], Run], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rl.commands.python._check_ray", lambda: None)  # other tests of this process may hold one
    (tmp_path / "file").write_text("")
    with pytest.raises(rl.ConfigurationError) as refused:
        call()
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) in (["file"], ["file", "runs"])
    assert not (tmp_path / "out").exists()


def test_a_run_of_ray_in_the_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(rl.ConfigurationError, match=r"Ray runs in this process already; call ray.shutdown\(\) first"):
        rl.train()


def test_a_run_names_what_it_left(tmp_path: Path) -> None:
    (tmp_path / "demo" / "trajectories").mkdir(parents=True)
    (tmp_path / "demo" / "summary.json").write_text('{"steps": 2}')
    (tmp_path / "demo" / "trajectories" / "eval_after.jsonl").write_text('{"reward": 1.0}\n')
    run = Run(tmp_path / "demo", tmp_path / "demo" / "policy")
    assert (run.name, run.summary, run.report.name) == ("demo", {"steps": 2}, "report.html")
    assert run.trajectories() == [{"reward": 1.0}]
    with pytest.raises(ValueError, match=r"no trajectories 'eval_before' in .*demo: there are eval_after"):
        run.trajectories("eval_before")
