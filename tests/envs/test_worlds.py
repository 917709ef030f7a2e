"""Worlds: what the grammar draws differs, holds together, and pays for nothing but the right answer."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest

from envs.agent.general.case import SUBMIT, run_solution
from envs.agent.general.world import Database, Row, WorldSpec
from envs.agent.grammar.conditions import Pick
from envs.agent.grammar.court import answer_fields
from envs.agent.grammar.domains import DOMAINS, listed, plural, with_article
from envs.agent.grammar.grammar_case import GrammarCase, offered_by
from envs.agent.grammar.house_rules import Weekday
from envs.agent.grammar.naming import naming_of
from envs.agent.grammar.price_rules import Fee, TierDiscount, Weekend, total_of, total_sql
from envs.agent.grammar.signature import signature_of
from envs.agent.grammar.structure import HOUSE_RULES, structure_of
from envs.agent.grammar.taskset import WorldsTaskset, attempts
from envs.agent.grammar.trial import find_problem, unreachable
from envs.agent.grammar.wording import law
from envs.cheats import answering
from envs.episode import play_episode
from envs.taskset import split_of
from envs.types import Message, Task, ToolCall

GOALS = ("pick", "book", "move", "plan", "audit", "tally")


@lru_cache
def task_with(goal: str, level: int = 2) -> Task:
    return WorldsTaskset(goals=[goal], levels=[level], environments=300).task(0)


@lru_cache
def some_tasks() -> tuple[Task, ...]:
    taskset = WorldsTaskset(environments=300)
    return tuple(taskset.task(index) for index in range(24))


def submit(result: Any) -> Iterator[Message]:
    yield Message("assistant", tool_calls=(ToolCall(SUBMIT, {"result": result}),))
    yield Message("assistant", "Done.")


def paid(task: Task, messages: Iterator[Message]) -> float:
    environment = WorldsTaskset().environment(task)
    return play_episode(task, environment, lambda _: next(messages), 10)[1]["outcome"]


# -- what is drawn ---------------------------------------------------------------------------


def test_words_are_put_together_rightly() -> None:
    assert len(DOMAINS) >= 40
    assert [with_article(word) for word in ("hour", "unit", "X-ray lamp", "estate", "room")] == [
        "an hour", "a unit", "an X-ray lamp", "an estate", "a room",
    ]  # fmt: skip
    assert [plural(word) for word in ("training vehicle", "pitch", "ferry", "bay")] == [
        "training vehicles", "pitches", "ferries", "bays",
    ]  # fmt: skip
    assert [listed(["a"]), listed(["a", "b", "c"])] == ["a", "a, b and c"]
    for domain in DOMAINS.values():
        least = {"kinds": 5, "papers": 3, "tiers": 3, "features": 4, "attributes": 3}
        assert all(len(set(getattr(domain, name))) >= count for name, count in least.items()), domain.name


def test_environments_differ_and_their_names_do_not_clash() -> None:
    numbers = range(250)
    signatures = [signature_of(number) for number in numbers]
    assert len({signature.core for signature in signatures}) >= 248
    assert len({structure_of(number).domain.name for number in numbers}) >= 40
    for number in numbers:
        naming = naming_of(structure_of(number))
        for table, columns in structure_of(number).schema.items():
            shown = [naming.columns[table, column] for column in columns]
            assert len(set(shown)) == len(shown), (number, table)
        for operation in offered_by(number).values():
            arguments = [naming.argument(role) for role in operation.roles]
            assert len(set(arguments)) == len(arguments), operation.key


def test_a_signature_tells_of_structure_and_not_of_words_or_numbers() -> None:
    one = signature_of(3)
    assert signature_of(3) == one
    first = structure_of(3)
    other = next(n for n in range(4, 400) if structure_of(n).domain is first.domain)
    assert signature_of(other).form != one.form


def test_every_rule_kind_is_drawn() -> None:
    drawn = {(rule.kind, rule.form) for number in range(700) for rule in structure_of(number).rules}
    assert {(cls.kind, form) for cls in HOUSE_RULES for form in cls.forms} == drawn


# -- what is made of it ----------------------------------------------------------------------


@pytest.mark.parametrize("goal", GOALS)
def test_a_task_passes_every_check_and_every_tool_can_be_called(goal: str) -> None:
    case = GrammarCase(task_with(goal).metadata)
    assert find_problem(case) is None
    assert unreachable(case) is None


def test_dropping_any_constraint_changes_what_is_right() -> None:
    for task in some_tasks():
        court = GrammarCase(task.metadata).court
        right = court.right()
        for constraint in court.constraints():
            assert court.right(without=constraint) != right, (task.id, constraint)
        court.close()


def test_a_slip_in_the_solver_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    number = next(n for n in range(500) if structure_of(n).rule("weekday") and "pick" in structure_of(n).goals)
    metadata = next(m for m, problem in attempts(number, "pick", 2, random.Random(1)) if problem is None)
    assert find_problem(GrammarCase(metadata)) is None
    monkeypatch.setattr(Weekday, "holds", lambda self, facts, pick: True)
    assert find_problem(GrammarCase(metadata)) == ("solution_fails", "the answer is not right")


def test_totals_by_hand() -> None:
    class Told:
        def tiers(self) -> list[dict[str, Any]]:
            return [{"name": "gold", "rank": 1, "discount": 15}]

    rules = (TierDiscount(""), Weekend("dearer", percent=20), Fee("item"))
    item = {"id": 1, "grp": "g", "price": 40, "fee": 30}
    pick = Pick(item, {"name": "g"}, {"id": 7, "tier": "gold"}, "2026-03-14", 5)  # a Saturday
    assert total_of(rules, Told(), pick) == 5 * 40 * 105 // 100 + 30 == 240  # type: ignore[arg-type]
    schema = {"item": {"id": "integer", "price": "integer", "fee": "integer"}, "client": {"tier": "text"},
              "tier": {"name": "text", "discount": "integer"}}  # fmt: skip
    rows: dict[str, list[Row]] = {"item": [{"id": 1, "price": 40, "fee": 30}], "client": [{"tier": "gold"}],
            "tier": [{"name": "gold", "discount": 15}]}  # fmt: skip
    database = Database(WorldSpec("x", schema, rows, {}))
    sql = total_sql(rules).replace("{day}", "'2026-03-14'").replace("{quantity}", "5")
    assert database.all(f"SELECT {sql} AS total FROM item i, client c") == [{"total": 240}]


def test_splits_share_no_environment_or_no_category() -> None:
    train, heldout = (WorldsTaskset(split, environments=300) for split in ("train", "heldout"))
    for taskset in (train, heldout):
        assert {split_of(taskset.task(i).metadata["environment"]) for i in range(4)} == {taskset.split}
    seen = {}
    for split in ("train", "heldout"):
        by_category = WorldsTaskset(split, environments=600, heldout_by="category")
        seen[split] = {by_category.task(i).metadata["category"] for i in range(6)}
    assert not seen["train"] & seen["heldout"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"categories": ["clinic"]}, "categories has 'clinic'"),
        ({"levels": [5]}, "levels is"),
        ({"goals": ["win"]}, "goals has 'win'"),
        ({"heldout_by": "luck"}, "heldout_by is 'luck'"),
        ({"environments": 3}, "environments is 3"),
        ({"categories": "clinics"}, "categories is 'clinics', must be a list"),
        ({"levels": 3}, "levels is 3, must be a list"),
        ({"categories": ["clinics"], "environments": 10}, "none of 10 environments fits"),
    ],
)
def test_bad_settings_are_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        WorldsTaskset(**settings)


def test_texts_have_no_holes_and_the_right_articles() -> None:
    texts = [message.content for task in some_tasks() for message in task.prompt]
    texts += [line for number in range(200) for line in law(structure_of(number))]
    texts += [tool.tool.schema["description"] for number in range(100) for tool in offered_by(number).values()]
    for text in texts:
        assert not re.search(r"[{}]|  |None|\.\.|\ba [aeio]|\ba (?!u[ns][ei])u|\ban [bcdfgjklmnpqrstvwxz]", text), text
        assert text[0].isupper(), text


# -- what is paid ----------------------------------------------------------------------------


@pytest.mark.parametrize("goal", GOALS)
def test_the_oracle_is_paid_and_nothing_else(goal: str) -> None:
    task = task_with(goal)
    environment = WorldsTaskset().environment(task)
    episode, scores = play_episode(task, environment, environment.oracle, 64)
    assert scores == {"outcome": 1.0}
    assert not episode.counts
    assert paid(task, iter([answering("Done.")([])])) == 0.0


def test_an_answer_must_have_its_form_and_its_total() -> None:
    task = task_with("pick")
    case = GrammarCase(task.metadata)
    world = case.open()
    run_solution(case, world)
    right = world.submitted
    item, total = answer_fields(case.structure, "pick")
    assert paid(task, submit(right)) == 1.0
    every = [case.start.rows["item"][i]["id"] for i in range(3)]
    wrong: list[Any] = [
        {**right, total: right[total] + 1}, {**right, total: float(right[total])}, {**right, total: str(right[total])},
        {**right, "why": "sure"}, {item: right[item]}, {**right, item: [right[item]]}, {**right, item: every},
        {**right, item: True}, {**right, item: None}, {**right, item: {"id": right[item]}}, [right], right[item], {},
    ]  # fmt: skip
    assert [paid(task, submit(result)) for result in wrong] == [0.0] * len(wrong)


def test_a_change_beside_the_right_one_is_not_paid() -> None:
    task = task_with("book")
    environment = WorldsTaskset().environment(task)
    case = GrammarCase(task.metadata)
    row = next(r for r in case.start.rows["record"] if r["status"] == "active")
    cancel = case.offered["record.cancel"]
    spoilt = [Message("assistant", tool_calls=(ToolCall(cancel.name, cancel.shown(record=row["id"])),))]

    def act(history: Any) -> Message:
        said = [message for message in history if message.role == "assistant"]
        if len(said) == 0:
            return spoilt[0]
        return environment.oracle(history[:-2] if len(said) else history)

    assert play_episode(task, environment, act, 64)[1]["outcome"] == 0.0


def test_tools_refuse_in_words_what_they_cannot_read() -> None:
    task = next(t for t in some_tasks() if structure_of(t.metadata["number"]).style.ids == "code")
    case = GrammarCase(task.metadata)
    world = case.open()
    get = case.offered["item.get"]
    for value in ("1", "XX-1", "' OR '1'='1", "\ud83d"):
        with pytest.raises(Exception, match=r"looks like|printable"):
            world.call(get.name, {next(iter(get.tool.schema["parameters"]["properties"])): value})


def test_a_task_of_another_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match="recipe 0"):
        GrammarCase({**task_with("pick").metadata, "recipe": 0})
