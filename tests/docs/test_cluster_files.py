"""examples/cluster: the Slurm script runs as far as stand-ins for Slurm's commands go, manifest and image are read."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from train_runs import train_config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "cluster"
SCRIPT, MANIFEST, IMAGE = FOLDER / "train.sbatch", FOLDER / "rayjob.yaml", FOLDER / "Dockerfile"
GPUS = 32


def overlay(name: str) -> Any:
    return train_config(f"cluster={name}")


@pytest.mark.parametrize(("name", "gpus"), [("node8", 8), ("nodes4", GPUS)])
def test_the_overlays_use_every_gpu_once(name: str, gpus: int) -> None:
    cfg = overlay(name)
    assert cfg.rollout.workers * cfg.ray.worker_gpus + cfg.ray.learner_gpus == gpus == cfg.hardware.gpus
    assert cfg.ray.address == {"node8": None, "nodes4": "auto"}[name]
    assert cfg.hardware.name == "H100 SXM 80 GB"
    assert train_config(f"cluster={name}", "hardware=h200").hardware.memory_gb == 141
    assert cfg.rollout.start_s < cfg.step_deadline_s
    assert cfg.rollout.episode_s <= cfg.rollout.group_s < cfg.step_deadline_s


def test_none_changes_nothing() -> None:
    assert overlay("none") == train_config()


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Stand-ins for srun, scontrol, ray and rl-train, which write down how they were called; a job's variables."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    log = tmp_path / "calls"
    say = f'printf "%s\\n" "$(basename "$0") $*" >> {shlex.quote(str(log))}'
    programs = {
        "scontrol": f"{say}\nprintf 'gpu-%s\\n' 11 12 13 14",
        "rl-train": f'{say}\n[ -z "${{REFUSE:-}}" ]',
        "ray": f'{say}\nwhile [ "$1" != "--" ]; do shift; done\nshift\nexec "$@"',
        "srun": f'{say}\nwhile [ "$1" != "ray" ]; do shift; done\nexec "$@"',
    }
    for name, text in programs.items():
        (binaries / name).write_text(f"#!/bin/bash\n{text}\n")
        (binaries / name).chmod(0o755)
    return {
        "PATH": f"{binaries}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "54321",
        "SLURM_JOB_NODELIST": "gpu-[11-14]", "SLURM_NNODES": "4", "SLURM_CPUS_PER_TASK": "64", "LOG": str(log),
    }  # fmt: skip


def test_the_slurm_script(slurm: dict[str, str]) -> None:
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    words = ["policy=hf", "policy.path=/shared/a b"]
    done = subprocess.run(["bash", SCRIPT, *words], env=slurm, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    calls = Path(slurm["LOG"]).read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["rl-train", "scontrol", "srun", "ray", "rl-train"]
    assert calls[0] == "rl-train plan=true cluster=nodes4 policy=hf policy.path=/shared/a b"
    ray = calls[3]
    assert f"symmetric-run --address gpu-11:{20000 + 54321 % 20000} --min-nodes 4 --num-cpus 64 --num-gpus 8" in ray
    assert calls[4] == "rl-train cluster=nodes4 policy=hf policy.path=/shared/a b"
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", SCRIPT.read_text(), re.M))
    assert int(options["nodes"]) * int(options["gpus-per-node"]) == GPUS
    assert options["ntasks-per-node"] == "1"


def test_a_refused_plan_ends_the_job(slurm: dict[str, str]) -> None:
    done = subprocess.run(["bash", SCRIPT], env=slurm | {"REFUSE": "1"}, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert Path(slurm["LOG"]).read_text() == "rl-train plan=true cluster=nodes4\n"


def test_the_manifest() -> None:
    job = yaml.safe_load(MANIFEST.read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    name, *words = shlex.split(spec["entrypoint"])
    assert name == "rl-train"
    cfg = train_config(*words)  # the settings compose
    assert cfg.ray.address == "auto"
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == version("ray")
    head = cluster["headGroupSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    pods = [head["template"]["spec"], group["template"]["spec"]]
    for pod in pods:
        (container,) = pod["containers"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == volumes
        assert {"/shared", "/dev/shm"} == set(mounts.values())
        assert container["resources"]["limits"] == container["resources"]["requests"]
    gpus = int(pods[1]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    assert group["replicas"] * gpus == GPUS == cfg.hardware.gpus
    assert all(str(path).startswith("/shared/") for path in (cfg.policy.path, cfg.runs_dir, cfg.cache_dir))
    json.dumps(job)  # plain values only


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", IMAGE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def copied(to: Path) -> None:
    """What the image is given, as its COPY lines say."""
    for kind, rest in instructions():
        if kind == "COPY":
            *sources, target = rest.split()
            for source in sources:
                place = to / target / (source if target == "./" else "")
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, place)


def test_the_image_has_what_its_steps_need(tmp_path: Path) -> None:
    kinds = [kind for kind, _ in instructions()]
    assert kinds[0] == "FROM"
    assert set(kinds) <= {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV"}
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {source for kind, rest in instructions() if kind == "COPY" for source in rest.split()[:-1]}
    assert sources == sent
    copied(tmp_path)
    for extra in ("gpu", "cpu"):
        (make,) = [rest for kind, rest in instructions() if kind == "RUN" and rest.startswith("make")]
        command = [*shlex.split(make.replace("${EXTRA}", extra)), "--dry-run", "PYTHON=python3"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert f"-r requirements/{extra}.txt" in done.stdout
        assert "-e ." in done.stdout
    for _, rest in (one for one in instructions() if one[0] == "RUN"):
        assert subprocess.run(["bash", "-n", "-c", rest]).returncode == 0
