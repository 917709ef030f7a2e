"""Places of a pool's workers: what is said when Ray has no room for them."""

from __future__ import annotations

import importlib

import pytest
import ray

from rl.rollout.placing import ONE_CPU, Placing, Reserved


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that Ray counts only what was asked for, also where there is none of it."""
    groups = importlib.import_module("ray.util.placement_group")  # ray.util has a function of that name
    monkeypatch.setattr(groups, "placement_group", lambda bundles, strategy: (bundles, strategy))
    free = {"CPU": 3.0, "memory": 1e10, "node:10.0.0.1": 1.0, "CPU_group_0_f00": 1.0}
    monkeypatch.setattr(ray, "available_resources", lambda: free)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}, {"Alive": False}, {"Alive": True}])
    said = Placing(2, ONE_CPU, 4, Reserved(2.0, resources={"sandbox": 1.0})).wanted()
    assert said == (
        "rollout.workers=2 of {'CPU': 1.0} and rollout.env_workers=4 of {'CPU': 2.0, 'sandbox': 1.0}; "
        "free are {'CPU': 3.0, 'sandbox': 0.0} on 2 machine(s)"
    )
    assert "env_workers" not in Placing(2, ONE_CPU, 0, ONE_CPU).wanted()
