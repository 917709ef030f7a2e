"""`rl-doctor` on a real run: the stored batch and weights give the very mismatch that the learner saw."""

from __future__ import annotations

import pytest
from train_runs import FirstRun

from configs.schema import DoctorConfig
from rl.commands import doctor
from rl.run.batches import load_batch, stored_steps


def test_the_last_batch_is_stored_and_explains_the_logged_mismatch(first_run: FirstRun) -> None:
    run = first_run.run
    assert stored_steps(run) == [2]  # the last step; save_batch_every is above the run's length
    batch = load_batch(run)
    assert (batch.step, batch.version, len(batch.groups)) == (2, 1, 4)
    assert {t["id"] for t in run.read_trajectories("step_000002")} == {
        t.id for g in batch.groups for t in g.trajectories
    }
    given = DoctorConfig(run=run.name, runs_dir=str(run.path.parent), attribute=True, threads=1, device="cpu")
    examined = doctor.run(given)
    assert examined["alarms"] == {"grpo": []}
    found = examined["attribution"]
    logged = run.read_metrics("grpo")[-1]
    rows = {row["part"]: row for row in found["rows"]}
    assert rows["numerics"]["tokens"] == logged["tokens/sampled"]
    # All tokens are the learner's own weights' and it replayed the experts: the same numbers but for summation order.
    assert rows["numerics"]["mean"] == pytest.approx(logged["mismatch/mean"], abs=1e-6)
    assert rows["numerics"]["max"] == pytest.approx(logged["mismatch/max"], abs=1e-5)
    assert rows["routing"]["status"] == "measured"
    assert rows["indexer"]["status"] in ("not recorded", "not in use")
    assert {rows[part]["status"] for part in ("staleness", "truncation")} == {"not in use"}
    assert "train/inference mismatch of step 2" in run.report.read_text()
