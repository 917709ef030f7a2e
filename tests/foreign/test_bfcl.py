"""BFCL from a package made on the spot: rules of matching, single-turn rows, dialogues with a simulated system."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from foreign_functions import ANSWER, PLAY, function, make_package

from envs.episode import demonstrator, play_episode
from envs.foreign.bfcl import BfclTaskset
from envs.foreign.bfcl_dialogue import LIMITS
from envs.foreign.bfcl_match import call_of, fits, tool_schema, wanted
from envs.foreign.examined import RefusedError
from envs.types import Message, ToolCall


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    top = tmp_path_factory.mktemp("bfcl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECIALE_CACHE", str(top / "cache"))
        yield make_package(top)


def right(**changed: Any) -> dict[str, Any]:
    arguments = {"artist": "maroon5", "minutes": 15, "loud": True, "tags": ["AB"], "place": {"room": "HALL"}} | changed
    return {key: value for key, value in arguments.items() if value is not None}


@pytest.mark.parametrize(
    ("arguments", "fit"),
    [
        (right(), True),
        (right(minutes=None, loud=None, tags=None, place=None), True),
        (right(minutes=15.5), True),
        (right(minutes=16), False),
        (right(minutes="15"), False),
        (right(loud=1), False),
        (right(artist=None), False),
        (right(artist="maroon 6"), False),
        (right(tags=["ab", "c"]), False),
        (right(place={"room": "hall1"}), True),
        (right(place={"room": "cellar"}), False),
        (right(place={}), False),
        (right(place={"room": "hall", "floor": 1}), False),
        (right(volume=3), False),
    ],
)
def test_arguments_are_compared_by_the_rules(arguments: dict[str, Any], fit: bool) -> None:
    assert fits(PLAY, arguments, ANSWER["music.play"]) is fit


def test_calls_may_come_in_any_order_and_each_counts_once() -> None:
    truth = [{"music.play": {"artist": ["a"]}}, {"music.play": {"artist": ["b"]}}, {"music.play": {"artist": ["b"]}}]
    a, b = ("music.play", {"artist": "a"}), ("music.play", {"artist": "b"})
    assert wanted([PLAY], [b, a, b], truth)
    for calls in ([a, b], [a, a, b], [a, b, b, b], [("play", {}), a, b], []):
        assert not wanted([PLAY], calls, truth)
    assert call_of(ANSWER) == ("music.play", {"artist": "Maroon 5", "minutes": 15, "loud": True, "tags": ["a-b"],
                                              "place": {"room": "Hall"}})  # fmt: skip


def test_schemas_become_json_schema_and_other_types_are_refused() -> None:
    made = tool_schema(PLAY, "music_play")
    assert made["parameters"]["type"] == "object"
    assert made["parameters"]["properties"]["minutes"] == {"type": "number"}
    assert made["parameters"]["properties"]["place"]["properties"] == {"room": {"type": "string"}}
    with pytest.raises(RefusedError, match=r"f: parameters\.x: the type 'HashMap' has no JSON form"):
        tool_schema(function("f", [], x="HashMap"), "f")


def played(taskset: BfclTaskset, *messages: Message, number: int = 0) -> tuple[list[str], float]:
    task = taskset.task(number)
    actions = iter(messages)
    episode, scores = play_episode(task, taskset.environment(task), lambda history: next(actions))
    return [m.content for m in episode.messages[len(task.prompt) :] if m.role != "assistant"], scores["outcome"]


def calling(*calls: tuple[str, dict[str, Any]]) -> Message:
    return Message("assistant", tool_calls=tuple(ToolCall(name, arguments) for name, arguments in calls))


def test_single_turn_rows_are_decided_by_the_first_message(package: Path) -> None:
    taskset = BfclTaskset(package=package, categories=["parallel"])
    assert taskset.refused == {"parallel_3": "its own answer is not right by the rules of the leaderboard"}
    for number in range(len(taskset)):
        environment = taskset.environment(taskset.task(number))
        assert play_episode(taskset.task(number), environment, demonstrator(environment))[1] == {"outcome": 1.0}
    first = taskset.environment(taskset.task(0)).row["answer"][1]["music.play"]["artist"][0]
    one, two = ("music_play", right()), ("music_play", {"artist": first, "minutes": 2})
    assert played(taskset, calling(two, one)) == ([], 1.0)
    for message in (calling(one), calling(one, two, two), calling(one, ("nothing", {})), Message("assistant", "Done.")):
        assert played(taskset, message)[1] == 0.0


def test_where_no_function_fits_no_call_is_right(package: Path) -> None:
    taskset = BfclTaskset(package=package, categories="irrelevance")  # type: ignore[arg-type]
    assert played(taskset, Message("assistant", "No function can do that."))[1] == 1.0
    assert played(taskset, calling(("music_play", right())))[1] == 0.0


def test_dialogues_run_in_the_sandbox_and_are_judged_turn_by_turn(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("envs.foreign.bfcl_dialogue.LIMITS", replace(LIMITS, cpu_s=1))
    taskset = BfclTaskset(size=1, package=package, categories=["multi_turn_miss_func"])
    task = taskset.task(0)
    environment = taskset.environment(task)
    assert play_episode(task, environment, demonstrator(environment))[1] == {"outcome": 1.0}
    title = environment.row["answer"][1][0].split("'")[1]
    opened, over = ("open_ticket", {"title": title, "urgent": True}), Message("assistant", "Done.")
    told, outcome = played(
        taskset,
        calling(opened),  # it is not there yet
        over,
        calling(opened, ("open_ticket", {"urgent": 3})),
        over,
        calling(("wait", {"seconds": 1}), ("count", {})),  # too long: neither is made
        calling(("count", {})),
        over,
    )
    assert told[0].startswith('Error: there is no tool "open_ticket"')
    assert told[1].startswith("There are more functions now:")
    assert '"name": "open_ticket"' in told[1]
    assert told[2] == '{"id": 2}'
    assert told[3].startswith("Error: open_ticket: ")
    assert told[4] == "How many are there?"
    assert told[5].startswith("Error: the calls took too long")
    assert (told[7], outcome) == ("2", 1.0)
    assert played(taskset, over, over, over)[1] == 0.0
    assert played(taskset, over, calling(opened), calling(opened), over, calling(("count", {})), over)[1] == 0.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"categories": ["web_search"]}, "web_search is not played: it needs the network"),
        ({"categories": ["simple"]}, "'simple' is unknown; use some of simple_python"),
        ({"categories": []}, "categories is empty"),
        ({"package": "nowhere"}, "there is no bfcl_eval with its data in it: pip install --no-deps"),
        ({"categories": ["multiple"]}, "has 0 files of multiple, wanted one"),
    ],
)
def test_wrong_settings_are_said(package: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BfclTaskset(**{"package": package, **settings})


def test_a_missing_package_says_how_to_get_it() -> None:
    with pytest.raises(ValueError, match="bfcl_eval is not installed: pip install --no-deps --target bfcl"):
        BfclTaskset()
