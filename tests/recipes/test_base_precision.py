"""A run whose indexer compares otherwise than its base policy does: the base is copied once, with the setting in it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from train_runs import train_config

from rl.policy.io import index_precision
from rl.policy.loading import load_policy
from rl.recipes.policy_stages import base_stage
from rl.run.paths import resolve
from rl.tracking.progress import Progress
from rl.tracking.rundir import RunDir

pytestmark = pytest.mark.unit
BASE = "pkg://rl.bases/tiny_dsa_base"


def test_the_base_is_copied_where_its_precision_is_another(tmp_path: Path) -> None:
    found = []
    for setting in ("null", "float32", "int8", "int8"):
        cfg = train_config(f"cache_dir={tmp_path}", f"base.index_precision={setting}")
        progress = Progress((), console=Console(file=io.StringIO()))
        found.append(base_stage(cfg, RunDir(tmp_path), progress))
    as_it_is, same, rounded, again = found
    assert as_it_is.path == same.path == resolve(BASE)
    assert rounded.path.parent == tmp_path
    assert (rounded.reused, again.reused) == (False, True)
    assert rounded.key != as_it_is.key
    assert (index_precision(as_it_is.path), index_precision(rounded.path)) == ("float32", "int8")
    assert {p.name for p in resolve(BASE).iterdir()} <= {p.name for p in rounded.path.iterdir()}
    one, other = (load_policy(result.path) for result in (as_it_is, rounded))
    assert all(bool((value == other.weights()[name]).all()) for name, value in one.weights().items())
