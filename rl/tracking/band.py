"""Is a run's reward curve a normal one? It is compared with the band of finished runs of the same settings.

    python -m rl.tracking.band runs/demo-0 runs/demo-1 runs/demo-2

records the band as ``runs/band-<key>.json``; the report of every run beside it with the same settings then says whether
its curve is inside. What counts are the settings that shape the curve: all but seed, names, paths and what concerns the
machine only; the key is their hash. A setting that a stored configuration lacks, since an earlier version wrote it, has
the schema's default, so that runs and bands of several versions are compared by what they have in common. What an
environment or a reward part takes is no part of the schema and counts as it was stored. Where no band of these settings
was recorded, the report says that.

With n runs and y_s their smoothed rewards at step s, the band is the interval in which a further run is expected,

    mean(y_s) ± 3 σ √(1 + 1/n),      σ² the mean over steps of the variance over runs

Three runs are too few to estimate a variance at every step of its own, hence the mean.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from configs.schema import TrainConfig
from rl.tracking.charts import points
from rl.tracking.rundir import RunDir, RunDirError, write_atomic
from rl.tracking.svg import INK, MUTED, Series, line_chart, smooth

METRIC = "reward/mean"
MIN_RUNS = 3
WIDTH = 3.0  # half the band, in standard deviations of a further run
INSIDE = 0.9  # share of the steps at which a normal run is inside the band
SMOOTHED = 12  # the curve is smoothed over a twelfth of its steps, as in the report's charts
# What does not shape the curve: who the run is, where it lies, what the machine does, what is written down.
LEFT_OUT = ("name", "resume", "seed", "runs_dir", "cache_dir", "tracking", "cost", "ray", "eval", "checkpoint_every",
            "keep_checkpoints", "checkpoint_async", "keep_finished_mb", "stop_s", "checkpoint_on_stop",
            "step_deadline_s", "push_to_hub", "push_public", "certificate", "certificates")  # fmt: skip
MACHINE = (
    "seed",  # the rollouts' follows the run's
    "threads",
    "workers",
    "start_s",
    "kv_cache_gib",
    "max_restarts",
    "restarts_s",
    "sync_s",
    "group_s",
    "probe_tolerance",
)  # inside a group


@dataclass(frozen=True)
class Band:
    """Where the reward of runs of the same settings lies, step by step."""

    key: str
    runs: list[str]
    steps: list[int]
    low: list[float]
    high: list[float]
    after: list[float]  # held-out outcome of each run at the end
    settings: dict[str, Any]  # of the runs: what shapes the curve, as ``shaping`` gives it


@dataclass(frozen=True)
class Verdict:
    """What the report says about a run's curve; ``curve`` is the smoothed reward by step."""

    text: str
    normal: bool | None = None  # None: there is nothing to compare with
    band: Band | None = None
    curve: Sequence[tuple[float, float]] = ()


def shaping(config: Mapping[str, Any]) -> dict[str, Any]:
    """What shapes the curve in a run's resolved configuration, with the schema's default for what it lacks."""
    return {
        name: {k: v for k, v in value.items() if k not in MACHINE} if isinstance(value, Mapping) else value
        for name, value in with_defaults(config).items()
        if name not in LEFT_OUT
    }


def settings_key(config: Mapping[str, Any]) -> str:
    """The hash of what shapes the curve in a run's resolved configuration."""
    return hashlib.sha256(json.dumps(shaping(config), sort_keys=True).encode()).hexdigest()[:16]


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's resolved configuration with the schema's default for what it lacks, whatever version wrote it."""
    return _filled(config, _defaults())


@cache
def _defaults() -> dict[str, Any]:
    """The schema's own defaults; fields without one are missing."""
    found: Any = OmegaConf.to_container(OmegaConf.structured(TrainConfig))
    return _given(found)


def _given(value: dict[str, Any]) -> dict[str, Any]:
    return {k: _given(v) if isinstance(v, dict) else v for k, v in value.items() if v != "???"}


def _filled(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with what it lacks of ``defaults``; a mapping that is free-form is empty there, and stays as it is."""
    inside = {
        name: _filled(value, default) if isinstance(value, Mapping) and isinstance(default, Mapping) else value
        for name, value in config.items()
        for default in (defaults.get(name),)
    }
    return {**defaults, **inside}


def record(runs: Sequence[RunDir]) -> Band:
    """The band of finished ``runs``.

    Raises:
        ValueError: fewer than three, not finished, of different settings or steps, or two of one seed.
    """
    if len(runs) < MIN_RUNS:
        raise ValueError(f"{len(runs)} runs: a band needs at least {MIN_RUNS}")
    configs = {run.name: _config(run) for run in runs}
    keys = {name: settings_key(config) for name, config in configs.items()}
    first = runs[0].name
    if other := [name for name, key in keys.items() if key != keys[first]]:
        raise ValueError(f"'{other[0]}' and '{first}' differ in more than their seed: one band needs the same settings")
    seeds = [config.get("seed") for config in configs.values()]
    if len(set(seeds)) < len(runs):
        raise ValueError(f"the seeds are {seeds}: every run must have its own")
    curves, after = [], []
    for run in runs:
        summary = run.read_summary()
        if "eval_after" not in summary:
            raise ValueError(f"'{run.name}' has not finished: it has no evaluation after training")
        after.append(round(float(summary["eval_after"]["overall"]), 4))
        curves.append(_curve(run.read_metrics("grpo")))
    steps = [int(step) for step, _ in curves[0]]
    if not steps or any([int(step) for step, _ in curve] != steps for curve in curves):
        raise ValueError(f"the runs have other steps: {', '.join(str(len(curve)) for curve in curves)}")
    values = [[curve[i][1] for curve in curves] for i in range(len(steps))]
    sigma = math.sqrt(statistics.fmean(statistics.variance(at) for at in values))
    half = WIDTH * sigma * math.sqrt(1 + 1 / len(runs))
    means = [statistics.fmean(at) for at in values]
    low, high = ([round(mean + sign * half, 4) for mean in means] for sign in (-1, 1))
    return Band(keys[first], [run.name for run in runs], steps, low, high, after, shaping(configs[first]))


def find(run: RunDir) -> Band | None:
    """The recorded band of the run's settings: beside the run, else one that is shipped; None: there is none.

    A band is looked for by the settings that it holds: what was recorded before the schema got a setting has another
    key, and is found all the same.
    """
    try:
        key = settings_key(_config(run))
    except ValueError:  # the report of a run says what it can, also when its configuration was spoilt
        return None
    for place in (run.path.resolve().parent, Path(str(files("rl.tracking") / "bands"))):
        for file in sorted(place.glob("band-*.json")):
            recorded = json.loads(file.read_text(encoding="utf-8"))
            if settings_key(recorded.get("settings", {})) == key:
                return Band(**recorded)
    return None


def judge(run: RunDir, rows: Sequence[Mapping[str, Any]]) -> Verdict | None:
    """Whether the curve in ``rows`` (of stage grpo) is normal so far; None while there is no curve."""
    curve = _curve(rows)
    if not curve:
        return None
    band = find(run)
    if band is None:
        return Verdict(
            "No recorded band for these settings. Three finished runs of them with different seeds make one: "
            "python -m rl.tracking.band runs/a runs/b runs/c"
        )
    bounds = {step: (low, high) for step, low, high in zip(band.steps, band.low, band.high, strict=True)}
    there = [(value, *bounds[int(step)]) for step, value in curve if int(step) in bounds]
    below, above = sum(value < low for value, low, _ in there), sum(value > high for value, _, high in there)
    inside = len(there) - below - above
    normal = bool(there) and inside >= INSIDE * len(there)
    recorded = f"the band of {len(band.runs)} recorded runs ({', '.join(band.runs)})"
    text = (
        f"{'Normal' if normal else 'Not normal'}: the reward is inside {recorded} at {inside} of {len(there)} steps"
        + ("" if not below else f", below it at {below}")
        + ("" if not above else f", above it at {above}")
        + f". Their held-out outcome after training was {min(band.after):.3f} to {max(band.after):.3f}."
    )
    return Verdict(text, normal, band, curve)


def band_chart(verdict: Verdict) -> str:
    """The curve between the edges of its band."""
    assert verdict.band is not None
    band = verdict.band
    edges = [
        Series(name, list(zip(map(float, band.steps), edge, strict=True)), MUTED)
        for name, edge in (("highest expected", band.high), ("lowest expected", band.low))
    ]
    values = [*band.low, *band.high, *(y for _, y in verdict.curve)]
    y_range = (min(0.0, *values), max(1.0, *values))
    return line_chart(
        "Reward against the recorded band", [*edges, Series("this run", verdict.curve, INK, bold=True)], y_range=y_range
    )


def _curve(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return smooth(points(rows, METRIC), max(1, len(rows) // SMOOTHED))


def _config(run: RunDir) -> dict[str, Any]:
    """The run's resolved configuration. Raises ValueError when there is none that can be read."""
    try:
        config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"'{run.config}' cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"'{run.config}' holds no settings")
    return config


def main(arguments: list[str]) -> int:
    if not arguments:
        print("usage: python -m rl.tracking.band runs/a runs/b runs/c", file=sys.stderr)
        return 2
    try:
        runs = [RunDir.existing(path) for path in arguments]
        band = record(runs)
    except (ValueError, RunDirError, OSError) as error:
        print(f"band: {error}", file=sys.stderr)
        return 2
    path = runs[0].path.resolve().parent / f"band-{band.key}.json"
    write_atomic(path, json.dumps(asdict(band)) + "\n")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
