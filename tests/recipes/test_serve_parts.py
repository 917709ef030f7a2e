"""What serving a policy leaves behind, with a scripted policy in the engine's place."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from rollout_doubles import Script, answer, renderer

from configs.schema import EvalConfig, GatewayConfig
from envs.types import Message
from rewards.compose import default_composer
from rl.chat.session import Session
from rl.recipes.serve import Book, serve
from rl.rollout.engine_api import Generation
from rl.run.errors import RunStopped
from rl.tracking.evaluation import eval_summary
from rl.tracking.rundir import RunDir

KEY = "sixteen-letters-and-more"


class ScriptedVoice:
    """As ``rl.recipes.chat.Voice``, without an engine."""

    def __init__(self, generate: Any) -> None:
        self.generate = generate
        self._runner = asyncio.Runner()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def session(self, prompt: Sequence[Message]) -> Session:
        return Session(renderer(), prompt, thinking=True, max_context=1024)

    def close(self) -> None:
        self._runner.close()


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "gateway")
    made.write_config("name: gateway\n")
    return made


def serving(rundir: RunDir, generate: Any, rewards: Sequence[float | None], **settings: Any) -> dict[str, Any]:
    """Serve until an agent has closed an episode for each of ``rewards``; the summary."""
    cfg = GatewayConfig(port=0, episodes=len(rewards), **settings)
    book = Book(rundir, cfg, "the policy", "the reward", lambda found, k: eval_summary(found, EvalConfig(k=k)))
    voice: Any = ScriptedVoice(generate)
    agents: list[threading.Thread] = []

    def agent(address: str) -> None:
        for number, reward in enumerate(rewards):
            url = f"{address}/episodes/t{number}/v1"
            with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
                try:
                    client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
                except openai.InternalServerError:
                    return  # the engine is gone
                client.post("/close", body={} if reward is None else {"reward": reward}, cast_to=object)

    def announce(address: str) -> None:
        agents.append(threading.Thread(target=agent, args=(address,)))
        agents[0].start()

    try:
        serve(voice, default_composer(), cfg, KEY, book, announce)
    finally:
        for thread in agents:
            thread.join(60)
        voice.close()
    return book.finish()


def test_it_ends_after_so_many_episodes_with_an_evaluation(rundir: RunDir) -> None:
    summary = serving(rundir, Script([answer("5")] * 4), [1.0, 0.0, 1.0, None])
    assert (summary["eval_after"]["overall"], summary["eval_after"]["n_tasks"]) == (pytest.approx(2 / 3), 3)
    assert summary["failures"] == {"no_reward": 1}
    assert summary["usage"]["total"]["episodes"] == 4
    assert rundir.read_summary() == json.loads(json.dumps(summary))
    assert rundir.report.is_file()
    (row,) = rundir.read_metrics("eval_after")
    assert row["eval/overall"] == pytest.approx(2 / 3)
    rows = rundir.read_trajectories("eval_after")
    assert [row["task_id"] for row in rows] == ["t0", "t1", "t2", "t3"]
    assert all(len(row["segments"][0]["spans"]) == 1 for row in rows)


def test_without_rewards_there_is_no_evaluation_and_tokens_can_be_left_out(rundir: RunDir) -> None:
    summary = serving(rundir, Script([answer("5")]), [None], save_tokens=False)
    assert "eval_after" not in summary
    assert "segments" not in rundir.read_trajectories("eval_after")[0]


def test_an_engine_that_fails_stops_it_and_what_was_before_is_kept(rundir: RunDir) -> None:
    script = Script([answer("5")])

    async def once(prompt: list[int], max_tokens: int) -> Generation:
        if script.prompts:
            raise RuntimeError("the engine is dead")
        return await script(prompt, max_tokens)

    with pytest.raises(RunStopped, match="the gateway has stopped: the engine is dead"):
        serving(rundir, once, [1.0, 1.0])
    assert [row["task_id"] for row in rundir.read_trajectories("eval_after")] == ["t0"]
