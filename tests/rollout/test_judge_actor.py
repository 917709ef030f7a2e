"""The run's own judge: real Ray, real vLLM, the shipped tiny policy."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from envs.types import Message
from rewards.judge import JudgeError
from rl.rollout.config import JudgeConfig
from rl.rollout.judge_actor import WorkerJudge, running_judge
from rl.run.assemble import open_renderer
from rl.run.paths import resolve

BASE = resolve("pkg://rl.bases/tiny_dsa_base")
CLIENT = {"_target_": "rl.rollout.judge_actor.WorkerJudge", "name": "judge", "timeout_s": 120.0}
CONFIG = JudgeConfig(
    kind="worker", client=CLIENT, max_context=512, max_tokens=48, max_concurrency=64, kv_cache_gib=0.1, temperature=1.0
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "reason": {"type": "string", "pattern": '^[^"\\\\\\x00-\\x1f]{0,40}$'},
        "score": {"enum": [0, 1, 2]},
    },
    "required": ["reason", "score"],
    "additionalProperties": False,
}
ASK = [Message("system", "Verify."), Message("user", "Is two plus three five?")]


@pytest.fixture(scope="module")
def judge(local_ray: None) -> Iterator[WorkerJudge]:
    with running_judge(CONFIG, BASE, partial(open_renderer, "v32", str(BASE))) as judge:
        yield judge


def test_answers_and_their_counts(judge: WorkerJudge) -> None:
    answers = asyncio.run(judge.complete(ASK, n=3, max_tokens=16))
    assert len(answers) == 3
    assert all(a.prompt_tokens == answers[0].prompt_tokens > 5 and 1 <= a.completion_tokens <= 16 for a in answers)
    assert {a.finish_reason for a in answers} <= {"stop", "length"}
    greedy = asyncio.run(judge.complete(ASK, n=2, max_tokens=16, temperature=0.0))
    assert greedy[0] == greedy[1]


def test_a_schema_holds_for_a_model_that_knows_nothing(judge: WorkerJudge) -> None:
    """Some hundred answers at once, hot enough to be noise, and every one is an object of the schema."""

    async def ask() -> list[Any]:
        calls = (judge.complete(ASK, n=2, max_tokens=240, temperature=2.0, schema=SCHEMA) for _ in range(100))
        return [answer for answers in await asyncio.gather(*calls) for answer in answers]

    answers = asyncio.run(ask())
    assert len(answers) == 200
    assert {a.finish_reason for a in answers} == {"stop"}
    found = [json.loads(a.text) for a in answers]
    assert all(set(f) == {"reason", "score"} and f["score"] in (0, 1, 2) and len(f["reason"]) <= 40 for f in found)
    assert len({f["score"] for f in found}) > 1
    stats = asyncio.run(judge.stats())
    assert stats["steps"] < stats["sampled_tokens"] / 8  # they decoded together
    assert stats["waiting"] == 0


def test_a_schema_that_cannot_be_enforced_is_refused(judge: WorkerJudge) -> None:
    with pytest.raises(JudgeError, match="cannot be enforced"):
        asyncio.run(judge.complete(ASK, schema={"type": "array", "uniqueItems": True}))
    with pytest.raises(JudgeError, match=r"judge.max_context=512"):
        asyncio.run(judge.complete([Message("user", "word " * 600)]))
    with pytest.raises(JudgeError, match="chat format"):
        asyncio.run(judge.complete([Message("tool", "no call before it")]))
    assert asyncio.run(judge.complete(ASK, max_tokens=4))  # it lives on


def test_weights_change_in_place(judge: WorkerJudge, tmp_path: Path) -> None:
    import torch

    from rl.policy.loading import load_policy

    before = asyncio.run(judge.complete(ASK, max_tokens=24, temperature=0.0))[0].text
    torch.manual_seed(5)
    policy = load_policy(BASE)
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) * parameter.std())
    policy.save(tmp_path / "other")
    shutil.copy(BASE / "tokenizer.json", tmp_path / "other")
    loads = asyncio.run(judge.stats())["loads"]
    asyncio.run(judge.load(tmp_path / "other"))
    assert asyncio.run(judge.complete(ASK, max_tokens=24, temperature=0.0))[0].text != before
    asyncio.run(judge.load(BASE))
    assert asyncio.run(judge.complete(ASK, max_tokens=24, temperature=0.0))[0].text == before
    assert asyncio.run(judge.stats())["loads"] == loads + 2


def test_weights_that_do_not_fit_are_refused(judge: WorkerJudge, tmp_path: Path) -> None:
    from rl.policy.loading import build_policy

    with pytest.raises(JudgeError, match=r"nowhere.*does not exist"):
        asyncio.run(judge.load(tmp_path / "nowhere"))
    shutil.copytree(BASE, tmp_path / "words")
    (tmp_path / "words" / "tokenizer.json").write_text("{}")
    with pytest.raises(JudgeError, match="tokenizer"):
        asyncio.run(judge.load(tmp_path / "words"))
    build_policy({"preset": "tiny_dsa", "vocab_size": 300, "overrides": {"num_hidden_layers": 1}}).save(tmp_path / "p")
    with pytest.raises(JudgeError, match="cannot take the weights"):
        asyncio.run(judge.load(tmp_path / "p"))
    assert asyncio.run(judge.complete(ASK, max_tokens=4))


def test_a_deadline_says_what_to_do_and_frees_the_engine(judge: WorkerJudge) -> None:
    """Seconds of work against a deadline of 50 ms: every answer is at least 300 digits long."""
    digits = {"type": "object", "properties": {"n": {"type": "string", "pattern": "^[0-9]{300,320}$"}}}
    schema = digits | {"required": ["n"], "additionalProperties": False}
    hasty = WorkerJudge(judge.name, timeout_s=0.05)
    before = asyncio.run(judge.stats())["sampled_tokens"]
    with pytest.raises(JudgeError, match=r"judge.client.timeout_s=0.05 to answer 64 .*waiting there; raise it"):
        asyncio.run(hasty.complete(ASK, n=64, max_tokens=400, temperature=2.0, schema=schema))

    async def drained() -> dict[str, float]:
        for _ in range(1000):
            if (stats := await judge.stats())["waiting"] == 0:
                return stats
            await asyncio.sleep(0.05)
        return stats

    after = asyncio.run(drained())
    assert after["waiting"] == 0
    assert after["sampled_tokens"] - before < 64 * 100  # given up, not finished


def test_the_handle_pickles_and_names_what_is_missing(judge: WorkerJudge) -> None:
    asyncio.run(judge.complete(ASK, max_tokens=2))
    again = pickle.loads(pickle.dumps(judge))
    assert again == judge
    assert asyncio.run(again.complete(ASK, max_tokens=2))
    with pytest.raises(JudgeError, match=r"no judge 'other' runs .* set judge=worker \(and judge.name=other\)"):
        asyncio.run(WorkerJudge("other").complete(ASK))
    with pytest.raises(JudgeError, match=r"judge.name='judge' is taken"):
        running_judge(CONFIG, BASE, partial(open_renderer, "v32", str(BASE))).__enter__()
    with pytest.raises(JudgeError, match=r"judge.path='nowhere': no config.json"):
        running_judge(CONFIG, "nowhere", partial(open_renderer, "v32", str(BASE))).__enter__()


def test_a_dead_judge_is_named(judge: WorkerJudge) -> None:
    import ray

    actor = ray.get_actor(judge.name)
    ray.kill(actor)
    with pytest.raises(JudgeError, match=r"judge 'judge' is gone .* start the run again"):
        asyncio.run(judge.complete(ASK))


def test_outside_a_cluster() -> None:
    code = (
        "import asyncio; from envs.types import Message; from rl.rollout.judge_actor import WorkerJudge; "
        "asyncio.run(WorkerJudge().complete([Message('user', 'hello')]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "a part that asks the run's own judge must not be isolated" in done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "oracle"}, "must be one of none, worker, endpoint"),
        ({"kind": "none"}, "choose the group"),
        ({"max_context": 0}, r"judge.max_context=0: must be at least 1"),
        ({"temperature": -1.0}, r"judge.temperature=-1.0: must be 0 or more"),
    ],
)
def test_the_configuration_is_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JudgeConfig(**{"kind": "worker", "client": CLIENT} | changes)
