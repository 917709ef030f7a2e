"""Environments by a language model, over real HTTP: a loopback server plays the model, line by line."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from envs.agent.general import synthesis_prompts as prompts
from envs.agent.general.case import SUBMIT, run_solution
from envs.agent.general.environment import case_of
from envs.agent.general.stored import StoredCase
from envs.agent.general.synthesis_prompts import ReplyError
from envs.agent.general.synthesise import Rejected, main, synthesise, task_of, with_tools, world_of
from envs.agent.general.taskset import StoredTaskset
from envs.environment import ToolError
from envs.episode import play_episode
from envs.llm import ChatEndpoint, EndpointError
from envs.taskset import split_of
from envs.types import Message, ToolCall


class Model:
    """An OpenAI-compatible server on the loopback; answers with the given texts, and remembers what it was asked."""

    def __init__(self, *replies: str | int) -> None:
        self.replies, self.requests = list(replies), []  # type: ignore[var-annotated]
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model.requests.append((self.path, dict(self.headers), body))
                reply = model.replies.pop(0) if model.replies else 500
                status = 200 if isinstance(reply, str) else reply
                answer = {"choices": [{"message": {"role": "assistant", "content": reply}}]}
                data = json.dumps(answer if status == 200 else {"error": "out of replies"}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.base_url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def endpoint(self, **settings: Any) -> ChatEndpoint:
        return ChatEndpoint(self.base_url, "scripted", **settings)

    def repairs(self) -> list[str]:
        """The last thing said to the model, request by request, where it was told what does not work."""
        said = [body["messages"][-1]["content"] for _, _, body in self.requests]
        return [text for text in said if text.startswith("That does not work")]


@pytest.fixture
def serve() -> Iterator[Any]:
    models: list[Model] = []

    def make(*replies: str | int) -> Model:
        models.append(Model(*replies))
        return models[-1]

    yield make
    for model in models:
        model.server.shutdown()
        model.server.server_close()


PETS = [
    {"name": f"Pet{i}", "kind": ("cat", "dog", "owl")[i % 3], "age": 1 + i * 7 % 11, "cage": f"C{i % 4}"}
    for i in range(12)
]
CAGES = [{"name": f"C{i}", "size": 10 + i} for i in range(4)]
SCHEMA = {
    "pet": {"name": "text", "kind": "text", "age": "integer", "cage": "text"},
    "cage": {"name": "text", "size": "integer"},
}
WORLD = (
    "Here it is:\n```json\n"
    + json.dumps({"about": "a pet shop", "schema": SCHEMA, "rows": {"pet": PETS, "cage": CAGES}})
    + "\n```"
)
TOOLS = '''```python
def list_pets(db, kind: str) -> list[str]:
    """Names of the pets of a kind."""
    return [row["name"] for row in db.all("SELECT name FROM pet WHERE kind = ? ORDER BY name", kind)]

def get_pet(db, name: str) -> dict:
    """All about a pet."""
    row = db.one("SELECT * FROM pet WHERE name = ?", name)
    if row is None:
        raise ValueError("there is no such pet")
    return row

def move_pet(db, name: str, cage: str) -> str:
    """Move a pet to another cage."""
    if not db.run("UPDATE pet SET cage = ? WHERE name = ?", cage, name):
        raise ValueError("there is no such pet")
    return "ok"
```'''


def task(text: str, answer: Any, solution: str, verifier: str, extra: str = "") -> str:
    head = json.dumps({"task": text, "answer": answer})
    return f"{extra}```json\n{head}\n```\n```python\n{solution}\n```\n```python\n{verifier}\n```"


OLDEST = """def solution(tools):
    pets = [tools.get_pet(name=name) for name in tools.list_pets(kind="cat")]
    tools.submit_result(result=max(pets, key=lambda pet: pet["age"])["name"])"""
CHECK_OLDEST = """def verify(start, end, answer):
    cats = [pet for pet in start["pet"] if pet["kind"] == "cat"]
    if start != end:
        return "something was changed"
    return any(pet["name"] == answer and pet["age"] == max(c["age"] for c in cats) for pet in cats)"""
NAME = {"type": "string", "text": "the name of the pet"}
GOOD = task("Which cat is the oldest?", NAME, OLDEST, CHECK_OLDEST)
MOVE = task(
    "Move every owl to cage C3.",
    None,
    """def solution(tools):
    for kind in ["cat", "dog", "owl"]:
        tools.count_pets(kind=kind)
    for name in tools.list_pets(kind="owl"):
        if tools.get_pet(name=name)["cage"] != "C3":
            tools.move_pet(name=name, cage="C3")""",
    """def verify(start, end, answer):
    wanted = [{**pet, "cage": "C3"} if pet["kind"] == "owl" else pet for pet in start["pet"]]
    return end["pet"] == wanted and end["cage"] == start["cage"]""",
    extra='```python\ndef count_pets(db, kind: str) -> int:\n    """How many pets of a kind there are."""\n'
    '    return db.one("SELECT COUNT(*) AS n FROM pet WHERE kind = ?", kind)["n"]\n```\n',
)


def made(serve: Any, *replies: str, **settings: Any) -> tuple[Any, Model]:
    model = serve(*replies)
    return synthesise(model.endpoint(), ["pet shop"], **{"levels": 1, "rounds": 1, "rows": 10, **settings}), model


def test_a_good_model_makes_an_environment_with_two_levels(serve: Any, tmp_path: Path) -> None:
    done, model = made(serve, WORLD, TOOLS, GOOD, MOVE, levels=2)
    assert [t["level"] for t in done.tasks] == [1, 2]
    assert done.environments == 1
    assert not done.rejects
    assert len({t["environment"] for t in done.tasks}) == 1
    path, headers, body = model.requests[0]
    assert path == "/v1/chat/completions"
    assert body["model"] == "scripted"
    assert "Authorization" not in headers
    assert "(6)" in model.requests[3][2]["messages"][-1]["content"]  # the calls of the first solution
    assert "count_pets" in {tool["name"] for tool in done.tasks[1]["sources"]["tools"]}

    file = tmp_path / "tasks.jsonl"
    file.write_text("".join(json.dumps(t) + "\n" for t in done.tasks))
    taskset = StoredTaskset(split_of(done.tasks[0]["environment"]), path=str(file))
    assert taskset.fingerprint() == hashlib.sha256(file.read_bytes()).hexdigest()
    for index in range(2):
        played = taskset.task(index)
        assert taskset.verify(played) is None
        environment = taskset.environment(played)
        episode, scores = play_episode(played, environment, environment.oracle)
        assert scores == {"outcome": 1.0}
        assert not episode.counts
        idle = play_episode(played, taskset.environment(played), lambda _: Message("assistant", "Done."))
        assert idle[1] == {"outcome": 0.0}
    first = taskset.task(0)
    assert "submit_result" in {schema["name"] for schema in taskset.environment(first).reset()[0].tools}


def test_another_change_is_not_accepted(serve: Any) -> None:
    done, _ = made(serve, WORLD, TOOLS, GOOD, MOVE, levels=2)
    case = StoredCase(done.tasks[1]["sources"])
    world = case.open()
    run_solution(case, world)
    assert case.judge(world.state(), None) is None
    with pytest.raises(ToolError, match="no such pet"):
        world.call("move_pet", {"name": "Nobody", "cage": "C1"})
    world.call("move_pet", {"name": "Pet0", "cage": "C3"})
    assert case.judge(world.state(), None) == "the verifier says no"
    world.close()


def test_malformed_replies_are_repaired_with_the_reason(serve: Any) -> None:
    done, model = made(serve, "I cannot.", WORLD, "```python\ndef f(db:\n```", TOOLS, GOOD, rounds=2)
    assert len(done.tasks) == 1
    assert done.rejects == {"malformed_reply": 2}
    assert "one ```json block, there are 0" in model.repairs()[0]
    assert "not Python" in model.repairs()[1]


WRONG_SOLUTION = OLDEST.replace("max(", "min(")
TWO_VERIFIERS = f"{CHECK_OLDEST}\n```\n```python\n{CHECK_OLDEST}"


ACCEPTS_ALL = task("?", NAME, OLDEST, "def verify(start, end, answer):\n    return True")


def test_bad_tasks_are_rejected_and_the_model_is_told(serve: Any) -> None:
    fails = task("?", NAME, WRONG_SOLUTION, CHECK_OLDEST)
    done, model = made(serve, WORLD, TOOLS, fails, ACCEPTS_ALL, GOOD, rounds=3)
    assert done.rejects == {"solution_fails": 1, "too_easy": 1}
    assert len(done.tasks) == 1
    assert "solution_fails: the verifier says no" in model.repairs()[0]
    assert "too_easy: the verifier accepts an empty result" in model.repairs()[1]


@pytest.mark.parametrize(
    ("reply", "reason", "told"),
    [
        (
            task(
                "?",
                NAME,
                OLDEST,
                "def verify(start, end, answer):\n    return answer in [p['name'] for p in start['pet']]",
            ),
            "too_easy",
            "the first value",
        ),
        (
            task("?", NAME, OLDEST.replace("get_pet", "get_dog"), CHECK_OLDEST),
            "solution_not_allowed",
            "no tool get_dog",
        ),
        (task("?", NAME, "import os\n" + OLDEST, CHECK_OLDEST), "solution_not_allowed", "only functions"),
        (task("?", NAME, OLDEST, CHECK_OLDEST.replace("any(", "open(")), "verifier_not_allowed", "open"),
        (task("?", NAME, OLDEST.replace('["age"]', '["size"]'), CHECK_OLDEST), "solution_raises", "KeyError"),
        (task("?", NAME, OLDEST.replace('kind="cat"', "kind=3"), CHECK_OLDEST), "solution_raises", "must be string"),
        (task("?", NAME, OLDEST, CHECK_OLDEST.replace('"age"]', '"size"]')), "solution_fails", "KeyError"),
        (task("?", NAME, OLDEST, TWO_VERIFIERS), "malformed_reply", "there are 2"),
        (task("", NAME, OLDEST, CHECK_OLDEST), "malformed_reply", 'no "task"'),
        (task("?", {"type": "color"}, OLDEST, CHECK_OLDEST), "malformed_reply", '"answer" must be null'),
    ],
)
def test_every_check_of_a_task(reply: str, reason: str, told: str) -> None:
    draft = replace(world_of("pet shop", WORLD, 10), tools=tuple(prompts.tools_in(TOOLS)))
    with pytest.raises(ReplyError if reason == "malformed_reply" else Rejected, match=told) as caught:
        task_of(draft, reply, 0)
    assert getattr(caught.value, "reason", reason) == reason


def test_what_never_ends_is_ended(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from envs.agent.general import stored
    from envs.sandbox import Limits

    monkeypatch.setattr(stored, "LIMITS", Limits(wall_s=2.0, cpu_s=1, memory_mb=512, output_bytes=4_000_000))
    hangs = TOOLS.replace(
        '    row = db.one("SELECT * FROM pet WHERE name = ?", name)', "    row = None\n    while True:\n        pass"
    )
    done, model = made(serve, WORLD, hangs, rounds=1)
    assert done.rejects == {"tool_hangs": 1, "given_up": 1}
    assert not done.tasks
    loop = task("?", NAME, "def solution(tools):\n    while True:\n        pass", CHECK_OLDEST)
    ever = task("?", NAME, 'def solution(tools):\n    while True:\n        tools.list_pets(kind="cat")', CHECK_OLDEST)
    done, model = made(serve, WORLD, TOOLS, loop, ever, GOOD, rounds=3)
    assert done.rejects == {"solution_raises": 2}
    assert "TimeoutError" in model.repairs()[0]
    assert "more than 400 calls" in model.repairs()[1]


def test_a_lost_sandbox_comes_back_as_it_was(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from envs.agent.general import stored
    from envs.sandbox import Limits

    monkeypatch.setattr(stored, "LIMITS", Limits(wall_s=2.0, cpu_s=1, memory_mb=512, output_bytes=4_000_000))
    slow = TOOLS.replace("    if row is None:", '    while name == "for ever":\n        pass\n    if row is None:')
    done, _ = made(serve, WORLD, slow, GOOD)
    environment = environment_of(done.tasks[0])
    environment.reset()

    def say(tool: str, **arguments: Any) -> Any:
        result = environment.step(Message("assistant", tool_calls=(ToolCall(tool, arguments),)))
        return result.messages[0].content, dict(result.info["counts"])

    assert say("move_pet", name="Pet0", cage="C2") == ("ok", {})
    assert say("get_pet", name="for ever")[1] == {"tool_timeout": 1}
    assert '"cage": "C2"' in say("get_pet", name="Pet0")[0]
    assert say("get_pet", name="Nobody") == ("Error: there is no such pet", {"tool_error": 1})
    environment.close()


def environment_of(metadata: dict[str, Any]) -> Any:
    from envs.agent.general.environment import GeneralEnvironment
    from envs.types import Task

    return GeneralEnvironment(Task("t", "general", (Message("user", metadata["task"]),), metadata=metadata))


def test_harder_means_more_calls(serve: Any) -> None:
    done, model = made(serve, WORLD, TOOLS, GOOD, GOOD, MOVE, levels=2, rounds=2)
    assert done.rejects == {"not_harder": 1}
    assert [t["level"] for t in done.tasks] == [1, 2]
    assert "6 tool calls" in model.repairs()[0]


@pytest.mark.parametrize(
    ("world", "told"),
    [
        (WORLD.replace('"integer"', '"date"'), "must be one of text, integer, number"),
        (WORLD.replace('"age": 1,', '"age": "one",'), "pet.age is integer"),
        (WORLD.replace('"about"', '"title"'), "about"),
        ('```json\n{"about": "x", "schema": {"a b": {"c": "text"}}, "rows": {"a b": []}}\n```', "plain names"),
        ('```json\n{"about": "x", "schema": {"a": {"c": "text"}}, "rows": {"a": []}}\n```', "wanted 2 or more"),
    ],
)
def test_bad_worlds_are_rejected(world: str, told: str) -> None:
    with pytest.raises(Rejected, match=told) as caught:
        world_of("pet shop", world, 10)
    assert caught.value.reason == "bad_world"


@pytest.mark.parametrize(
    ("tools", "told"),
    [
        (TOOLS.replace('"""All about a pet."""', "pass"), "no docstring"),
        (TOOLS.replace("name: str", "name"), "must be annotated"),
        (TOOLS.replace("(db, name: str)", '(db, name: str = "x")'), "without defaults"),
        (TOOLS.replace("return row\n", "return open(row)\n"), "open is neither"),
        (TOOLS.replace("FROM pet WHERE name", "FROM dog WHERE name"), "no such table"),
        (TOOLS.replace("db.run(", "db.all("), "readonly"),
    ],
)
def test_bad_tools_are_rejected(tools: str, told: str) -> None:
    with pytest.raises((Rejected, ReplyError), match=told):
        with_tools(world_of("pet shop", WORLD, 10), tools)


def test_rounds_are_bounded(serve: Any) -> None:
    done, model = made(serve, *["nothing"] * 5, rounds=3)
    assert len(model.requests) == 3
    assert done.rejects == {"malformed_reply": 3, "given_up": 1}


def test_failures_of_the_endpoint_say_what_to_do(serve: Any) -> None:
    model = serve(503)
    with pytest.raises(EndpointError, match="answered 503"):
        synthesise(model.endpoint())
    with pytest.raises(EndpointError, match="is the server up"):
        ChatEndpoint("http://127.0.0.1:1/v1", "m").complete([])
    with pytest.raises(ValueError, match="base_url is 'localhost'"):
        ChatEndpoint("localhost", "m")
    with pytest.raises(ValueError, match="rounds is 0"):
        synthesise(model.endpoint(), rounds=0)


def test_command(serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = serve(WORLD, TOOLS, GOOD), tmp_path / "tasks.jsonl"
    words = [f"base_url={model.base_url}", "model=scripted", "category=pet shop", "n=1", "levels=1", "rows=10"]
    assert main([*words, f"out={out}", "api_key=secret"]) == 0
    assert "1 tasks in 1 environments" in capsys.readouterr().out
    assert model.requests[0][1]["Authorization"] == "Bearer secret"
    stored = json.loads(out.read_text())
    assert "Call submit_result once" in stored["task"]
    assert SUBMIT in case_of(StoredTaskset(split_of(stored["environment"]), path=str(out)).task(0)).tools
    assert main(["base_url=http://127.0.0.1:1/v1", "model=m", f"out={out}"]) == 2
    assert "is the server up" in capsys.readouterr().err
    with pytest.raises(ValueError, match="must be a file"):
        StoredTaskset(path=str(tmp_path / "missing"))
