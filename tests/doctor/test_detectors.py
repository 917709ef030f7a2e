"""Every detector: silent on a clean run of eight steps, loud on one with the fault that it is there for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from doctor_records import OPEN, SETTINGS, groups, metrics, record, rollout, segment

from envs.types import StopReason
from rl.doctor.by_books import advantages_of
from rl.doctor.by_rollouts import twins
from rl.doctor.catalogue import BY_NAME, DETECTORS
from rl.doctor.records import StepRecord, groups_of, spans_of
from rl.doctor.watch import Watch
from rl.tracking.rundir import trajectory_json

Spoil = Callable[[StepRecord], StepRecord]
STEPS = 8


def fired(spoil: Spoil, since: int = 1, steps: int = STEPS) -> dict[str, int]:
    """Detector → first step, of a run that is spoilt from step ``since`` on."""
    watch = Watch()
    for step in range(1, steps + 1):
        watch.step(spoil(record(step)) if step >= since else record(step))
    return {name: course.fired[0] for name, course in watch.courses.items() if course.fired}


def numbers(**changed: float) -> Spoil:
    new = {name.replace("__", "/"): value for name, value in changed.items()}
    return lambda r: replace(r, metrics={**r.metrics, **new})


def each(change: Callable[..., object]) -> Spoil:
    """``change`` on every rollout; the metrics stay those of the clean one."""

    def spoil(r: StepRecord) -> StepRecord:
        for group in r.groups:
            for trajectory in group.trajectories:
                change(trajectory)
        return r

    return spoil


def test_a_clean_run_has_no_alarm_and_every_detector_looks() -> None:
    watch = Watch()
    for step in range(1, STEPS + 1):
        assert watch.step(record(step)) == []
    assert [name for name, course in watch.courses.items() if not course.looked] == ["verdicts"]  # nothing repeats


@pytest.mark.parametrize(
    ("name", "spoil", "others"),
    [
        ("ratio_mean", numbers(policy__ratio_mean=1.2), set()),
        ("ratio_mean", numbers(policy__ratio_mean=0.9), set()),
        ("mismatch", numbers(mismatch__mean=0.004), set()),
        ("probe_live", numbers(mismatch__probe_live_mean=0.02, replay__probe_routing_overlap=0.98), set()),
        ("probe_live", numbers(mismatch__probe_live_mean=0.02, replay__probe_indexer_overlap=0.98), set()),
        ("choices", numbers(replay__routing_overlap=0.9), set()),
        ("choices", numbers(replay__indexer_overlap=0.9), set()),
        ("off_policy", numbers(policy__approx_kl=0.06), set()),
        ("off_policy", numbers(policy__drift_p95=0.6), set()),
        ("surprise", numbers(policy__surprise_z=-10.0, policy__surprise=-0.3), set()),
        ("skipped_steps", numbers(learner__skipped_steps=1.0), set()),
        ("gradient", numbers(learner__gradient_changed=1.0), set()),
        ("too_stale", numbers(staleness__max=1.0), set()),
        ("advantages", numbers(advantage__std=0.6), set()),
        ("advantages", numbers(advantage__mean=0.1), set()),
        ("loss", numbers(loss__policy=0.05), set()),
        ("reward_sum", each(lambda t: t.reward_parts.update(outcome=t.reward + 0.5)), set()),
        ("turns", each(lambda t: setattr(t, "turns", 3)), set()),
        ("unmasked", each(lambda t: setattr(t, "stop_reason", StopReason.ENV_ERROR)), set()),
        ("unmasked", each(lambda t: t.id.endswith("-0") and t.segments.clear()), {"loss"}),
        ("versions", each(lambda t: t.segments[0].versions.__setitem__(t.segments[0].loss_mask, 99)), set()),
    ],
)  # fmt: skip
def test_a_fault_fires_its_detector_in_the_first_step(name: str, spoil: Spoil, others: set[str]) -> None:
    found = fired(spoil, since=2)
    assert found[name] == 2
    assert set(found) - {name} <= others


def test_a_surprise_that_stays_adds_up() -> None:
    """4.5 standard errors in each of n steps are 4.5 sqrt(n)."""
    assert fired(numbers(policy__surprise_z=-4.5, policy__surprise=-0.2)) == {"surprise": 2}


def test_a_bias_of_the_surprise_that_is_small_is_none() -> None:
    assert fired(numbers(policy__surprise_z=9.0, policy__surprise=0.02)) == {}


def test_a_near_tie_on_the_probe_is_no_alarm() -> None:
    assert fired(numbers(mismatch__probe_live_mean=0.005, replay__probe_routing_overlap=0.999)) == {}


def test_bf16_explains_some_mismatch_and_not_any() -> None:
    coarse: Spoil = lambda r: replace(r, settings=replace(SETTINGS, coarse=True))  # noqa: E731
    assert (
        fired(
            lambda r: coarse(
                numbers(mismatch__mean=0.02, mismatch__probe_live_mean=0.02, replay__probe_routing_overlap=0.9)(r)
            )
        )
        == {}
    )
    assert set(fired(lambda r: coarse(numbers(mismatch__mean=0.2)(r)))) == {"mismatch"}


def test_no_gradient_must_last() -> None:
    assert fired(numbers(group__zero_variance=1.0), since=3) == {"no_gradient": 5}


def test_teachers_make_a_gradient_of_their_own() -> None:
    taught: Spoil = lambda r: replace(r, settings=replace(SETTINGS, taught=True))  # noqa: E731
    assert fired(lambda r: taught(numbers(group__zero_variance=1.0, loss__policy=0.05)(r))) == {}


def test_a_learning_rate_that_starts_again() -> None:
    assert fired(numbers(learner__lr=SETTINGS.lr / 2), since=4) == {"learning_rate": 4}


def test_a_collapse_is_a_fall_from_what_was_reached() -> None:
    def spoil(r: StepRecord) -> StepRecord:
        return numbers(score__outcome=0.0)(r)

    assert fired(spoil, since=6, steps=12) == {"collapse": 8}  # five-step mean 0.2, best 0.5: fallen by 0.6
    assert fired(spoil) == {}  # it never learned


def test_advantages_by_hand_and_another_group_s_mean() -> None:
    (group, *_) = groups(1)
    for t, reward in zip(group.trajectories, (1.0, 0.0, 0.0, 0.0), strict=True):
        t.reward = reward
    assert advantages_of(group, "mean") == [0.75, -0.25, -0.25, -0.25]
    assert advantages_of(group, "std")[0] == pytest.approx(0.75 / (math.sqrt(0.1875) + 1e-6))


@pytest.mark.parametrize("aggregation", ["token_mean", "constant"])
def test_the_loss_of_other_aggregations(aggregation: str) -> None:
    settings = replace(SETTINGS, aggregation=aggregation, constant=10)
    of = [groups(1)[0]]
    right = [rollout(0, 0, [[5] * 9], 1.0), rollout(0, 1, [[5]], 0.0)]  # 10 and 2 tokens, advantages 0.5 and -0.5
    of[0].trajectories = right
    wanted = -(0.5 * 10 - 0.5 * 2) / (12 if aggregation == "token_mean" else 2 * 10)
    given = metrics(1, of, settings) | {"loss/policy": wanted}
    reading = BY_NAME["loss"].measure(StepRecord(1, given, of, settings), {})
    assert reading is not None
    assert reading.value == pytest.approx(0.0, abs=1e-12)
    reading = BY_NAME["loss"].measure(StepRecord(1, given | {"loss/policy": 0.0}, of, settings), {})
    assert reading is not None
    assert reading.value == pytest.approx(-wanted / 0.5)


def test_rollouts_of_two_tasks_in_one_group_and_a_group_too_small() -> None:
    def mixed(r: StepRecord) -> StepRecord:
        r.groups[0].trajectories[0].task_id = "sums/train/0/99"
        return r

    def small(r: StepRecord) -> StepRecord:
        r.groups[0].trajectories.pop()
        return replace(r, metrics=metrics(r.step, r.groups))

    assert fired(mixed, since=2)["groups"] == 2
    assert set(fired(small, since=2)) == {"groups"}


def test_tasks_that_a_resume_leaves_out() -> None:
    def skip(r: StepRecord) -> StepRecord:
        for g in r.groups:
            for t in g.trajectories:
                t.task_id = g.task_id = f"sums/train/0/{g.id + 3}"
        return r

    def again(r: StepRecord) -> StepRecord:
        return replace(r, groups=groups(r.step - 1), metrics=metrics(r.step, groups(r.step - 1)))

    assert fired(skip, since=5) == {"tasks": 5}
    assert fired(again, since=5)["tasks"] == 5

    def shuffled(r: StepRecord) -> StepRecord:
        for g in r.groups:
            for t in g.trajectories:
                t.task_id = g.task_id = f"sums/train/0/{g.id * 7919 % 1000}"
        return r

    assert fired(shuffled) == {}  # a taskset with an order of its own


def test_a_second_pass_over_the_tasks_is_none() -> None:
    def passes(size: int, lost_at: int = 10**9) -> Spoil:
        def spoil(r: StepRecord) -> StepRecord:
            for g in r.groups:
                for t in g.trajectories:
                    t.task_id = g.task_id = f"sums/train/0/{(g.id if g.id < lost_at else g.id - lost_at) % size}"
            return r

        return spoil

    assert fired(passes(10), steps=12) == {}
    assert fired(passes(100, lost_at=16), steps=12) == {"tasks": 9}  # begun again in step 5: task 16 comes after all
    assert fired(passes(10, lost_at=24), steps=12) == {"tasks": 7}  # task 0 in the middle of the third pass


def test_equal_rewards_have_no_advantage_at_all() -> None:
    """The mean of three 0.1 misses 0.1 by a rounding, which is no loss."""
    of = groups(1)
    for g in of:
        g.trajectories = g.trajectories[:3]
        for t in g.trajectories:
            t.reward = 0.1
    assert advantages_of(of[0], "mean") == [0.0] * 3
    assert BY_NAME["loss"].measure(StepRecord(1, metrics(1, of) | {"loss/policy": 0.0}, of, SETTINGS), {}) is None


def test_an_infinite_reading_is_an_alarm() -> None:
    assert fired(numbers(policy__ratio_mean=math.inf), since=2) == {"ratio_mean": 2}
    assert fired(numbers(policy__ratio_mean=math.nan)) == {}  # no number


def test_equal_rollouts_beyond_chance() -> None:
    def same(r: StepRecord) -> StepRecord:
        for g in r.groups[:1]:
            for t in g.trajectories:
                t.segments = [segment([[5] * 5, [6] * 5])]
        return r

    def sure(r: StepRecord) -> StepRecord:  # a policy that always says this
        for g in r.groups:
            for t in g.trajectories:
                t.segments = [segment([[5] * 5, [6] * 5], logprob=0.0)]
        return r

    reading = twins(same(record(1)), {})
    assert reading is not None
    # six equal pairs, 24 pairs in all, p = exp(-0.7 * 12) each; deviation sqrt(24 p (1 - p) * 2 + 4)
    p = math.exp(-0.7 * 12)
    assert reading.value == pytest.approx((6 - 24 * p) / math.sqrt(24 * p * (1 - p) * 2 + 4), rel=1e-6)
    everywhere = Watch()
    for step in range(1, 3):
        r = record(step)
        for g in r.groups:
            same(replace(r, groups=[g]))
        everywhere.step(r)
    assert everywhere.courses["twins"].fired == [1, 2]
    assert "twins" not in fired(sure)


def test_chance_makes_twins_of_a_sure_policy_and_no_alarm() -> None:
    """Coins: two messages of probability 1/2 each, drawn independently for 30 steps."""
    rng, watch = np.random.default_rng(0), Watch((BY_NAME["twins"],))
    for step in range(1, 31):
        r = record(step)
        for g in r.groups:
            for t in g.trajectories:
                t.segments = [segment([[40 + int(rng.integers(2))]], logprob=math.log(0.5) / 2)]
        watch.step(r)
    assert watch.courses["twins"].looked == 30
    assert watch.courses["twins"].worst < 4.0


def test_a_verifier_that_contradicts_itself() -> None:
    def lie(r: StepRecord) -> StepRecord:
        for g in r.groups:
            a, b = g.trajectories[:2]
            b.segments, b.reward, b.reward_parts = a.segments, 1.0 - a.reward, {"score/outcome": 1.0 - a.reward}
        return r

    assert "verdicts" in fired(lie)


def test_a_turn_that_is_not_opened() -> None:
    def drop(t: object) -> None:
        s = t.segments[0]  # type: ignore[attr-defined]
        begin = spans_of(s)[1][0]
        keep = np.arange(len(s)) != begin - 1
        s.tokens, s.loss_mask, s.logprobs, s.versions = (
            x[keep] for x in (s.tokens, s.loss_mask, s.logprobs, s.versions)
        )

    assert fired(each(drop), since=3) == {"separators": 3}
    assert spans_of(segment([[5], [6]])) == [(4, 6), (11, 13)]
    assert segment([[5], [6]]).tokens[10] == OPEN


def test_the_same_last_words_in_many_tasks() -> None:
    def fail(r: StepRecord) -> StepRecord:
        for n, g in enumerate(r.groups):
            t = g.trajectories[0]
            t.messages = [*t.messages, {"role": "tool", "content": f"Error: port {n} refused"}]
        return r

    def garbled(r: StepRecord) -> StepRecord:
        for g in fail(r).groups:
            g.trajectories[0].messages[-2]["parse_error"] = "no call"
        return r

    def limited(r: StepRecord) -> StepRecord:
        for g in fail(r).groups:
            g.trajectories[0].stop_reason = StopReason.MAX_TURNS
        return r

    assert fired(fail, since=2) == {"same_end": 2}
    assert fired(garbled) == fired(limited) == {}  # the policy's own mistake; a limit


def test_masked_rollouts_that_become_more() -> None:
    def mask(r: StepRecord) -> StepRecord:
        for g in r.groups:
            g.trajectories[0].failure_kind = "env_timeout"
        return replace(r, metrics=metrics(r.step, r.groups))

    found = fired(mask, since=3)
    assert found == {"masked": 3}


def test_an_alarm_is_said_the_first_second_fourth_time() -> None:
    watch = Watch()
    said = [bool(watch.step(numbers(mismatch__mean=0.1)(record(s))) and watch) for s in range(1, 9)]
    assert said == [True] * 8
    new = Watch()
    assert [new.step(numbers(mismatch__mean=0.1)(record(s)))[0].new for s in range(1, 9)] == [
        True, True, False, True, False, False, False, True,
    ]  # fmt: skip


def test_alarms_are_one_line_each_with_cause_and_cure() -> None:
    watch = Watch()
    (alarm,) = watch.step(numbers(policy__ratio_mean=1.25)(record(1)))
    assert alarm.sentence.startswith("warning: ratio_mean: the distance of the mean importance ratio from 1 is 0.25, ")
    for detector in DETECTORS:
        for text in (detector.shows, detector.basis, detector.cause, detector.cure):
            assert text
            assert "\n" not in text


def test_rollouts_survive_their_json(tmp_path: object) -> None:
    """What the detectors read of a file is what they read in the loop."""
    of = groups(3)
    rows = [json.loads(json.dumps(trajectory_json(t))) | {"step": 3} for g in of for t in g.trajectories]
    (back,) = groups_of(rows).values()
    assert [g.id for g in back] == [g.id for g in of]
    live, stored = Watch(), Watch()
    live.step(StepRecord(3, {}, of))
    stored.step(StepRecord(3, {}, back))
    for name, course in live.courses.items():
        assert stored.courses[name].worst == pytest.approx(course.worst), name


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"reward": 1.0}, "row 1 is no rollout: ValueError: 'task_id' is missing"),
        ({"task_id": "a", "reward": "much"}, "row 1 is no rollout: ValueError: could not convert"),
        ({"task_id": "a", "reward": 1, "segments": [{"tokens": [1], "spans": [{"start": 0, "end": 2}]}]},
         "a span from 0 to 2 in a segment of 1 tokens"),
        ([1], "row 1 is no rollout"),
        ({"task_id": "a", "reward": 10**400}, "row 1 is no rollout: OverflowError"),
        ({"task_id": "a", "reward": 1, "step": math.inf}, "row 1 is no rollout: OverflowError"),
        ({"task_id": "a", "reward": 1, "segments": [{"tokens": [2**40], "spans": []}]}, "row 1 is no rollout: Overfl"),
        ({"task_id": "a", "reward": 1, "segments": [{"tokens": [[1], [2]], "spans": []}]}, "'tokens' must be a list"),
        ({"task_id": "a", "reward": 1, "messages": "Hello"}, "'messages' must be a list of JSON objects"),
        ({"task_id": "a", "reward": 1, "failure_kind": {"a": 1}}, "must be a word or null"),
    ],
)  # fmt: skip
def test_rows_that_are_no_rollouts(row: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        groups_of([row])


def test_rows_of_another_toolkit_need_task_and_reward_only() -> None:
    (found,) = groups_of(
        [{"task_id": "a", "reward": 1.0}, {"task_id": "a", "reward": None, "failure_kind": "x"}]
    ).values()
    assert [len(g.trajectories) for g in found] == [2]
    (dated,) = groups_of([{"id": f"run-2024-05-{n}", "task_id": f"t{n}", "reward": 1} for n in (1, 2)]).values()
    assert [g.task_id for g in dated] == ["t1", "t2"]  # its ids are no numbers of groups
    nats = [{"tokens": [1, 2], "spans": [{"start": 1, "end": 2, "logprobs": [800.0]}]}]  # of another sign
    (odd,) = groups_of([{"task_id": "a", "reward": 1, "segments": nats}] * 2).values()
    assert twins(StepRecord(1, {}, odd), {}) is not None
    assert Watch().step(StepRecord(1, {}, found)) is not None
