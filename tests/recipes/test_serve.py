"""rl-gateway with a real engine, in a process of its own: agents outside, what is recorded of them, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from in_process import command

from rl.chat.tokenizer import ChatTokenizer
from rl.run.paths import resolve
from rl.tracking.rundir import RunDir

pytestmark = pytest.mark.engine
BASE = "pkg://rl.bases/tiny_dsa_base"
KEY = "sixteen-letters-and-more"
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_order",
        "description": "Look up an order.",
        "parameters": {"type": "object", "properties": {"order_id": {"type": "integer"}}, "required": ["order_id"]},
    },
}


class Served:
    """The command, its address, and what it left."""

    def __init__(self, cwd: Path, *words: str) -> None:
        self.log = (cwd / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rl.commands.serve", f"path={BASE}", "port=0", "rollout.kv_cache_gib=0.1", *words],
            cwd=cwd, stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1", "SPECIALE_GATEWAY_KEY": KEY, "COLUMNS": "160"},
        )  # fmt: skip
        until = time.monotonic() + 240
        while "OPENAI_API_KEY=" not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < until, self.output
            time.sleep(0.05)
        self.address = self.output.partition("OPENAI_BASE_URL=")[2].partition("/episodes")[0]
        self.run = RunDir(cwd / "runs" / "gateway", make=False)

    @property
    def output(self) -> str:
        return (Path(self.log.name)).read_text()

    def client(self, name: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/episodes/{name}/v1", api_key=KEY, max_retries=0)

    def wait(self) -> int:
        try:
            return self.process.wait(120)
        finally:
            self.process.kill()
            self.log.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


def test_outside_agents_are_recorded_as_rollouts_are(place: Path) -> None:
    """Twelve at once, by both APIs. The tokens of each are those that its client was told of; at the end SIGTERM, with
    one that is still open."""
    served = Served(place, "rollout.max_tokens=48")
    said: dict[str, list[Any]] = {}

    def agent(number: int) -> None:
        with served.client(name := f"t{number}") as client:
            asked: Any = {"model": "policy", "max_tokens": 24 if number % 3 == 0 else None, "tools": [TOOL]}
            messages: Any = [{"role": "user", "content": f"Which item is in order {number}?"}]
            for _ in range(2):
                if number % 2:
                    items = {"input": messages, "tools": [{"type": "function", **TOOL["function"]}]}
                    response = client.responses.create(model="policy", **items)
                    messages += [item.model_dump(exclude_none=True) for item in response.output]
                    calls = [item.call_id for item in response.output if item.type == "function_call"]
                    messages += [{"type": "function_call_output", "call_id": id, "output": "a lamp"} for id in calls]
                    texts = [response.output_text]
                else:
                    reply = client.chat.completions.create(messages=messages, **asked).choices[0].message
                    messages.append(reply.model_dump(exclude_none=True))
                    calls = [call.id for call in reply.tool_calls or ()]
                    messages += [{"role": "tool", "tool_call_id": id, "content": "a lamp"} for id in calls]
                    texts = [reply.content or ""]
                said.setdefault(name, []).extend(texts)
                if not calls:
                    break
            client.post("/close", body={"reward": float(number % 2)}, cast_to=object)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(agent, range(12)))
    with served.client("left") as client:
        client.chat.completions.create(model="policy", messages=[{"role": "user", "content": "Hello"}])
        client.post("/reward", body={"reward": 1}, cast_to=object)
    served.process.send_signal(signal.SIGTERM)
    assert served.wait() == 128 + signal.SIGTERM, served.output
    assert "episodes of agents outside" in served.output
    assert "held-out" not in served.output.lower() + served.run.report.read_text().lower()
    assert KEY not in served.output + served.run.config.read_text()
    rows = {row["task_id"]: row for row in served.run.read_trajectories("eval_after")}
    assert rows.keys() == {*said, "left"}
    vocabulary = ChatTokenizer.load(resolve(BASE))
    for name, texts in said.items():
        row = rows[name]
        assert row["failure_kind"] is None, row
        spans = [(s["tokens"][p["start"] : p["end"]], p) for s in row["segments"] for p in s["spans"]]
        assert sum(len(tokens) for tokens, _ in spans) == row["sampled_tokens"] > 0
        assert all(p["version"] == 0 and len(p["logprobs"]) == len(tokens) for tokens, p in spans)
        assert all(logprob <= 0 for _, p in spans for logprob in p["logprobs"])
        sampled = vocabulary.decode([token for tokens, _ in spans for token in tokens])
        assert all(text in sampled for text in texts)
        assert row["reward_parts"]["score/outcome"] == int(name[1:]) % 2
    summary = served.run.read_summary()["eval_after"]
    assert (summary["n_tasks"], summary["overall"]) == (13, pytest.approx(7 / 13))
    low, high = summary["estimates"]["avg@1"]["wilson"]
    assert low < 7 / 13 < high


def test_what_it_left_can_be_examined(place: Path) -> None:
    file = "runs/gateway/trajectories/eval_after.jsonl"
    done = command("rl-doctor", f"rollouts={file}", cwd=place)
    assert done.returncode == 0, done.output
    assert "no alarm" in done.output
    done = command("rl-compare", "sources=[runs/gateway]", cwd=place)
    assert "| gateway | 13 | 0.538" in done.output
