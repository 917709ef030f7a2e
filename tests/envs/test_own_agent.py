"""env=own_agent: rows for an agent of one's own, and the ways in which it is scored."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from envs.driving import Endpoint
from envs.episode import play_episode
from envs.own_agent import OwnAgentEnvironment, OwnAgentTaskset, find_agent
from envs.scores import posted_scores
from envs.types import Episode, InfrastructureError, Message, StopReason, ToolCall

ROWS = [{"prompt": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(20)]


def nobody(base_url: str, api_key: str, row: dict[str, Any]) -> None:
    """Returns nothing."""


async def late(base_url: str, api_key: str, row: dict[str, Any]) -> dict[str, float]:
    return {"outcome": 0.5, "steps": 3}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


async def scored(
    rows: Path,
    agent: Any = None,
    *,
    reward: Any = None,
    posted: Any = (),
    stop: StopReason = StopReason.ANSWERED,
    **command: Any,
) -> Any:
    taskset = OwnAgentTaskset(path=rows, agent=agent, reward=reward, **command)
    task = taskset.task(0)
    environment = taskset.environment(task)
    assert isinstance(environment, OwnAgentEnvironment)
    endpoint = Endpoint("http://127.0.0.1:1/e/k/v1", "k")
    endpoint.posted.extend(map(posted_scores, posted))
    if (running := environment.drive(endpoint)) is not None:
        await running
    said = (*task.prompt, Message("assistant", f" {task.metadata['row']['answer']}\n"))
    result = environment.score(Episode(task, said, stop, 1))
    return await result if hasattr(result, "__await__") else result


def scores(*args: Any, **keywords: Any) -> Any:
    return asyncio.run(scored(*args, **keywords))


def test_the_agent_gets_endpoint_and_row_and_its_number_is_the_reward(rows: Path) -> None:
    seen: list[Any] = []

    def agent(base_url: str, api_key: str, row: dict[str, Any]) -> float:
        seen.append((base_url, api_key, row))
        return 0.25

    assert scores(rows, agent) == {"outcome": 0.25}
    assert seen == [("http://127.0.0.1:1/e/k/v1", "k", ROWS[int(seen[0][2]["answer"]) - 1])]
    assert scores(rows, late) == {"outcome": 0.5, "steps": 3.0}


def test_what_an_agent_and_a_reward_do_to_their_row_is_not_seen_by_others(tmp_path: Path) -> None:
    row = {"answer": "1", "messages": [{"role": "user", "content": "Hi"}]}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {n}.", **row}) + "\n" for n in range(20)))

    def agent(base_url: str, api_key: str, row: dict[str, Any]) -> None:
        row["messages"].append({"role": "assistant", "content": "Hello"})

    def reward(answer: str, row: dict[str, Any]) -> float:
        row["messages"].clear()
        return 1.0

    taskset = OwnAgentTaskset(path=path, agent=agent, reward=reward)
    task = taskset.task(0)
    environment = taskset.environment(task)
    environment.drive(Endpoint("http://127.0.0.1:1/e/k/v1", "k"))
    environment.score(Episode(task, (*task.prompt, Message("assistant", "1")), StopReason.ANSWERED, 1))
    assert [m["content"] for m in task.metadata["row"]["messages"]] == ["Hi"]


def test_a_reward_that_was_posted(rows: Path) -> None:
    assert scores(rows, nobody, posted=[{"reward": 0.1}, {"reward": 0.75}]) == {"outcome": 0.75}
    assert scores(rows, nobody, posted=[{"outcome": 1, "speed": 2}]) == {"outcome": 1.0, "speed": 2.0}
    assert scores(rows, late, posted=[{"reward": 0.75}])["outcome"] == 0.5  # what is returned comes last


def test_a_function_scores_the_answer(rows: Path) -> None:
    assert scores(rows, nobody, reward="exact") == {"outcome": 1.0}  # the policy's last message
    assert scores(rows, lambda *_: "no idea", reward="exact") == {"outcome": 0.0}
    assert scores(rows, lambda u, k, row: row["answer"], reward=lambda answer, row: answer == row["answer"]) == {
        "outcome": 1.0
    }


@pytest.mark.parametrize(
    ("agent", "reward", "why"),
    [
        (nobody, None, "agent nobody gave no reward: return a number"),
        (lambda *_: "5", None, "gave the text '5'"),
        (lambda *_: 1.0, "exact", "gave the reward 1.0, and env.reward scores its answer"),
        (lambda *_: 1.5, None, "gave outcome=1.5: must be between 0 and 1"),
        (lambda *_: float("nan"), None, "must be a finite number"),
        (lambda *_: {"steps": 1}, None, '"outcome" is missing'),
    ],
)
def test_a_reward_that_is_none(rows: Path, agent: Any, reward: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        scores(rows, agent, reward=reward)


def test_a_run_that_a_limit_cut_needs_no_reward(rows: Path) -> None:
    assert scores(rows, nobody, stop=StopReason.MAX_TURNS) == {"outcome": 0.0}


def test_rows_need_an_answer_only_where_a_function_scores(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in ROWS))
    assert OwnAgentTaskset(path=path, agent=nobody).task(0).answer is None
    with pytest.raises(ValueError, match="answer: no such column"):
        OwnAgentTaskset(path=path, agent=nobody, reward="exact")


def test_what_it_is_made_of(rows: Path) -> None:
    taskset = OwnAgentTaskset(path=rows, agent=f"{__name__}.nobody")
    names = list(taskset.inputs())
    assert any("test_own_agent.py of agent" in name for name in names)
    assert taskset.fingerprint() != OwnAgentTaskset(path=rows, agent=json.dumps).fingerprint()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        ("", "agent is missing"),
        ("no_such_module.agent", "agent=no_such_module.agent: No module named"),
        ("json.nothing", "agent=json.nothing: no such function; give package.module.function"),
    ],
)
def test_an_agent_that_is_not_there(agent: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        find_agent(agent)


def test_nothing_can_act_in_it_by_turns(rows: Path) -> None:
    taskset = OwnAgentTaskset(path=rows, agent=nobody)
    environment = taskset.environment(taskset.task(0))
    with pytest.raises(NotImplementedError, match="a program drives its episodes, nobody acts turn by turn"):
        environment.step(Message("assistant", "5"))
    with pytest.raises(NotImplementedError, match="has no oracle"):
        environment.oracle(())


# -- an agent that is a command -------------------------------------------------------------

SEES = """cat > seen.json; echo $OPENAI_BASE_URL $OPENAI_API_KEY >> seen.json; echo log; echo 0.25"""


def test_a_command_gets_endpoint_and_row_and_prints_the_reward(rows: Path, tmp_path: Path) -> None:
    assert scores(rows, command=SEES, cwd=str(tmp_path)) == {"outcome": 0.25}
    row, address = (tmp_path / "seen.json").read_text().splitlines()
    assert json.loads(row) in ROWS
    assert address == "http://127.0.0.1:1/e/k/v1 k"
    assert scores(rows, command="""echo '{"outcome": 1, "steps": 3}'""") == {"outcome": 1.0, "steps": 3.0}


def test_what_a_command_posts_counts_more_than_what_it_prints(rows: Path) -> None:
    assert scores(rows, command="echo 0.25", posted=[{"reward": 0.75}]) == {"outcome": 0.75}
    assert scores(rows, command="true", stop=StopReason.MAX_TURNS) == {"outcome": 0.0}


def test_a_function_scores_what_a_command_prints(rows: Path) -> None:
    answered = """python3 -c 'import json, sys; print(json.load(sys.stdin)["answer"])'"""
    assert scores(rows, command=answered, reward="exact") == {"outcome": 1.0}
    assert scores(rows, command="echo no", reward="exact") == {"outcome": 0.0}
    assert scores(rows, command="true", reward="exact") == {"outcome": 1.0}  # the policy's last message


@pytest.mark.parametrize(
    ("command", "kind", "why"),
    [
        ("echo 'no disk' >&2; exit 3", RuntimeError, "exit code 3: no disk"),
        ("echo 0.5; exit 75", InfrastructureError, "exit code 75"),
        ("no_such_program_at_all", RuntimeError, "exit code 127"),
        ("kill -9 $$", RuntimeError, "exit code -9"),
        ("echo 2", ValueError, "gave outcome=2.0: must be between 0 and 1"),
        ("echo fine", ValueError, "gave no reward: .* print it, as the last line"),
    ],
)
def test_a_command_that_fails(rows: Path, command: str, kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why):
        scores(rows, command=command)


def test_a_command_ends_with_its_episode_and_leaves_nothing(rows: Path, tmp_path: Path) -> None:
    """Cancelled at a deadline, or over: what it started in the background, or in a session of its own, ends too."""
    begun = tmp_path / "pids"
    start = f"sleep 600 & echo $! >> {begun}; setsid sleep 601 & echo $! >> {begun};"

    async def late() -> None:
        running = asyncio.ensure_future(scored(rows, command=f"{start} sleep 602"))
        while not begun.exists() or len(begun.read_text().split()) < 2:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(late())
    gone(begun)
    assert scores(rows, command=f"sleep 600 & echo $! > {begun}; echo 1") == {"outcome": 1.0}
    gone(begun)


def gone(pids: Path) -> None:
    until = time.monotonic() + 20
    while any(map(alive, pids.read_text().split())):
        assert time.monotonic() < until
        time.sleep(0.01)


def alive(pid: str) -> bool:
    state = Path("/proc", pid, "stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_much_output_and_a_row_that_nobody_reads(rows: Path, tmp_path: Path) -> None:
    big = tmp_path / "big.jsonl"
    big.write_text("".join(json.dumps({**row, "more": "x" * 300_000}) + "\n" for row in ROWS))
    assert (
        scores(big, command="head -c 3000000 /dev/zero; head -c 300000 /dev/zero >&2; echo; echo 1")["outcome"] == 1.0
    )


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"command": "if true"}, "no shell command: .*yntax"),
        ({"command": " "}, "it is empty"),
        ({"command": "true", "cwd": "nowhere"}, "nowhere: no such directory"),
        ({"command": "true", "agent": nobody}, "give one of them"),
        ({}, "agent is missing: .* or command"),
    ],
)
def test_a_command_that_cannot_be(rows: Path, given: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        OwnAgentTaskset(path=rows, **given)


def test_the_files_of_a_command_are_inputs(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("print(1)")
    taskset = OwnAgentTaskset(path=rows, command="python3 agent.py --fast", cwd=str(tmp_path))
    assert str(tmp_path / "agent.py") in taskset.inputs()
    before = taskset.fingerprint()
    (tmp_path / "agent.py").write_text("print(0)")
    assert OwnAgentTaskset(path=rows, command="python3 agent.py --fast", cwd=str(tmp_path)).fingerprint() != before


# -- played without a model -----------------------------------------------------------------


def adds(base_url: str, api_key: str, row: dict[str, Any]) -> float:
    with openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
        tools: Any = [{"type": "function", "function": {"name": "add", "parameters": NUMBERS}}]
        messages: list[Any] = [{"role": "user", "content": row["prompt"]}]
        while True:
            said = client.chat.completions.create(model="m", messages=messages, tools=tools).choices[0].message
            messages.append(said)
            if not said.tool_calls:
                return float(said.content == row["answer"])
            messages += [{"role": "tool", "tool_call_id": call.id, "content": "?"} for call in said.tool_calls]


NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def test_anything_may_answer_an_agent(rows: Path) -> None:
    taskset = OwnAgentTaskset(path=rows, agent=adds)
    task = taskset.task(0)
    script = [
        Message("assistant", parse_error="it is not closed."),
        Message("assistant", tool_calls=(ToolCall("add", {"a": 1}), ToolCall("sub"), ToolCall("add", {"b": "\ud83d"}))),
        Message("assistant", task.metadata["row"]["answer"]),
    ]
    heard: list[Message] = []
    rest = iter(script)
    episode, paid = play_episode(task, taskset.environment(task), lambda _: next(rest), observe=heard.append)
    assert paid == {"outcome": 1.0}
    assert episode.counts == {"malformed_call": 1, "unknown_tool": 1, "bad_arguments": 1}
    assert [m.role for m in heard] == [
        "system", "user", "assistant", "tool", "assistant", "tool", "tool", "tool", "assistant",
    ]  # fmt: skip
    assert (episode.stop_reason, episode.turns, episode.answer) == (StopReason.ANSWERED, 3, script[2].content)
    episode, paid = play_episode(task, taskset.environment(task), lambda _: script[1], max_turns=2)
    assert (episode.stop_reason, paid) == (StopReason.MAX_TURNS, {"outcome": 0.0})
    with pytest.raises(ZeroDivisionError):
        play_episode(task, taskset.environment(task), lambda _: 1 // 0)  # type: ignore[arg-type, return-value]


def test_an_agent_that_raises_is_paid_nothing_when_it_has_been_answered(rows: Path) -> None:
    def asks_and_raises(base_url: str, api_key: str, row: dict[str, Any]) -> float:
        adds(base_url, api_key, row)
        raise LookupError("lost")

    def raises(base_url: str, api_key: str, row: dict[str, Any]) -> float:
        raise LookupError("lost")

    for agent in (asks_and_raises, raises):
        taskset = OwnAgentTaskset(path=rows, agent=agent)
        task = taskset.task(0)
        says = lambda _: Message("assistant", "?")  # noqa: E731
        if agent is raises:
            with pytest.raises(LookupError):
                play_episode(task, taskset.environment(task), says)
        else:
            episode, paid = play_episode(task, taskset.environment(task), says)
            assert (paid, episode.counts) == ({"outcome": 0.0}, {"agent_raised": 1})
