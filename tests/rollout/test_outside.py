"""Agents outside open, drive and close episodes over HTTP; a scripted policy answers them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import openai
import pytest
from rollout_doubles import Script, answer, call, renderer
from test_driven import ASK, TOOLS, calculator, exact

from rewards.compose import default_composer
from rl.chat.session import Session
from rl.rollout.config import RolloutConfig
from rl.rollout.engine_api import Generation
from rl.rollout.gateway import Gateway
from rl.rollout.office import Outside
from rl.rollout.rollout import rollout
from rl.types import Trajectory

KEY = "the key of whoever may open"


class Place:
    """Where an agent is: it knows the address and the key."""

    def __init__(self, address: str) -> None:
        self.address = address

    def post(self, url: str, body: Any, key: str = KEY) -> Any:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        return self._send(urllib.request.Request(url, json.dumps(body).encode(), headers))

    def get(self, path: str, key: str = KEY) -> Any:
        return self._send(urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {key}"}))

    def _send(self, request: urllib.request.Request) -> Any:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as reply:
            return json.load(reply)

    def refused(self, url: str, body: Any, status: int, key: str = KEY) -> str:
        with pytest.raises(urllib.error.HTTPError) as caught:
            self.post(url, body, key)
        assert caught.value.code == status
        return str(json.load(caught.value)["error"]["message"])

    def open(self, **order: Any) -> dict[str, Any]:
        return dict(self.post(f"{self.address}/v1/episodes", order))

    def client(self, base_url: str, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)


def served(agent: Callable[[Place], Any], generate: Any, **settings: Any) -> list[Trajectory]:
    """``agent`` runs in a thread against a gateway; the trajectories of its episodes, in the order of their ends."""
    config = RolloutConfig(**{"max_context": 2000, "max_tokens": 200, "max_turns": 9, **settings})
    ended: list[Trajectory] = []

    async def run() -> None:
        def play(task: Any, open_env: Any, name: str) -> Any:
            return rollout(
                task, open_env,
                lambda prompt: Session(renderer(), prompt, thinking=True, max_context=config.max_context),
                generate, default_composer(), config, name, open_gateway=lambda: gateway,
            )  # fmt: skip

        outside = Outside(play, config, ended.append)
        gateway = Gateway(office=(KEY, outside))
        with closing(gateway):
            try:
                await asyncio.to_thread(agent, Place(gateway.address))
            finally:
                await outside.finish()
        if outside.failed is not None:
            raise outside.failed

    asyncio.run(run())
    return ended


def test_an_episode_is_opened_driven_scored_and_closed() -> None:
    script = Script([call("add", a=3, b=2), answer("5")])

    def agent(place: Place) -> None:
        opened = place.open(task="sum-3-2")
        assert opened["id"] == "outside-0"
        assert opened["base_url"] == f"{place.address}/e/{opened['api_key']}/v1"
        assert place.get("/v1/episodes") == {"open": ["outside-0"], "closed": 0, "scored": 0, "mean": None}
        with place.client(opened["base_url"], "none") as client:
            assert calculator(client) == "5"
        place.post(f"{opened['base_url']}/reward", {"reward": 0.25})
        told = place.post(f"{opened['base_url']}/close", {"outcome": 0.5, "steps": 2})
        assert (told["id"], told["outcome"], told["turns"], told["failure"]) == ("outside-0", 0.5, 2, None)
        assert place.get("/v1/episodes") == {"open": [], "closed": 1, "scored": 1, "mean": 0.5}
        assert "unknown API key, or one of an episode that is over" in place.refused(
            f"{opened['base_url']}/reward", {"reward": 1}, 401
        )

    (t,) = served(agent, script)
    exact(t, script)
    assert (t.id, t.task_id, t.family, t.failure_kind) == ("outside-0", "sum-3-2", "outside", None)
    assert (t.reward_parts["score/outcome"], t.reward_parts["score/steps"]) == (0.5, 2.0)
    assert [m["role"] for m in t.messages] == ["system", "user", "assistant", "tool", "assistant"]


def test_a_name_in_the_base_url_is_an_episode() -> None:
    """Two requests at once open it once; it cannot be gone on with when it is over."""

    def agent(place: Place) -> None:
        url = f"{place.address}/episodes/task-7/v1"
        with place.client(url) as client, ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(client.chat.completions.create, model="m", messages=ASK) for _ in range(2)]
            assert [a.result().choices[0].message.content for a in asked] == ["5", "5"]
            assert place.post(f"{url}/close", {"reward": 1})["segments"] == 2
            with pytest.raises(openai.PermissionDeniedError, match="task-7 is over; another one needs another name"):
                client.chat.completions.create(model="m", messages=ASK)

    (t,) = served(agent, Script([answer("5")] * 2))
    assert (t.id, t.task_id, t.reward_parts["score/outcome"]) == ("task-7", "task-7", 1.0)


def test_a_posted_episode_has_a_name_too_and_none_is_given_twice() -> None:
    def agent(place: Place) -> None:
        for find in (lambda: f"{place.address}/episodes/outside-0/v1", lambda: place.open()["base_url"]):
            with place.client(find()) as client:
                client.chat.completions.create(model="m", messages=ASK)
        place.post(f"{place.address}/episodes/outside-1/v1/close", {"reward": 1})
        place.post(f"{place.address}/episodes/outside-0/v1/close", {"reward": 0})

    ended = served(agent, Script([answer("5")] * 2))
    assert {t.id: (t.turns, t.reward_parts["score/outcome"]) for t in ended} == {
        "outside-1": (1, 1.0), "outside-0": (1, 0.0),
    }  # fmt: skip


def test_the_responses_api_says_the_same() -> None:
    """A loop of calls over items, whole and in events, is one segment; usage is the policy's."""
    script = Script([call("add", a=3, b=2), answer("5"), answer("Yes.")])
    tools: list[Any] = [{"type": "function", "strict": None, **tool["function"]} for tool in TOOLS]

    def agent(place: Place) -> None:
        opened = place.open()
        with place.client(opened["base_url"]) as client:
            items: list[Any] = [{"role": "user", "content": "What is 3 plus 2?"}]
            common: Any = {"model": "m", "instructions": "Use the tools.", "tools": tools}
            first = client.responses.create(input=items, **common)
            items += [item.model_dump(exclude_none=True) for item in first.output]
            (made,) = [item for item in first.output if item.type == "function_call"]
            assert json.loads(made.arguments) == {"a": 3, "b": 2}
            assert [item.type for item in first.output] == ["reasoning", "function_call"]
            items.append({"type": "function_call_output", "call_id": made.call_id, "output": "5"})
            with client.responses.stream(input=items, **common) as events:
                kinds = [event.type for event in events]
                second = events.get_final_response()
            assert kinds[:2] == ["response.created", "response.in_progress"]
            assert kinds[-1] == "response.completed"
            assert second.output_text == "5"
            assert second.usage is not None
            assert second.usage.output_tokens_details.reasoning_tokens > 0
            # a model's own items without their reasoning, as programs send them that drop it
            items += [{"role": "assistant", "content": "5"}, {"role": "user", "content": "Sure?"}]
            assert client.responses.create(input=items, **common).output_text == "Yes."
            for wrong, why in (
                ({"previous_response_id": first.id}, "nothing is kept here between requests"),
                ({"tools": [{"type": "web_search"}]}, "'web_search' does not run here"),
                ({"input": [{"type": "item_reference", "id": "x"}]}, "'item_reference', which has no form here"),
                ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input_image"),
                ({"input": [{"type": "function_call_output", "call_id": "x", "output": ""}]}, "was not made"),
                ({"background": True}, "background"),
                ({"text": {"format": {"type": "json_object"}}}, "json_schema"),
            ):
                with pytest.raises(openai.BadRequestError, match=why):
                    client.responses.create(**{"model": "m", "input": "x", **wrong})
        place.post(f"{opened['base_url']}/close", {"reward": 1})

    (t,) = served(agent, script)
    exact(t, script)
    assert len(t.segments) == 2  # a new question drops the thinking before it
    assert t.counts == {}


def test_without_a_reward_it_is_masked_unless_a_limit_cut_it() -> None:
    def agent(place: Place) -> None:
        for again in (False, True):
            opened = place.open()
            with place.client(opened["base_url"]) as client:
                client.chat.completions.create(model="m", messages=ASK)
                if again:
                    with pytest.raises(openai.PermissionDeniedError, match="it had 1 answers"):
                        client.chat.completions.create(model="m", messages=ASK)
            told.append(place.post(f"{opened['base_url']}/close", {}))

    told: list[Any] = []
    whole, cut = served(agent, Script([answer("5")] * 2), max_turns=1)
    assert (whole.failure_kind, whole.reward_parts, whole.stop_reason) == ("no_reward", {}, "answered")
    assert told[0]["failure"] == "no_reward: nobody posted a reward before the episode was closed"
    assert (told[0]["reward"], told[0]["outcome"]) == (None, None)
    assert (cut.failure_kind, cut.stop_reason, told[1]["outcome"]) == (None, "max_turns", 0.0)


def test_what_is_refused() -> None:
    def agent(place: Place) -> None:
        here = f"{place.address}/v1"
        assert "which episode?" in place.refused(f"{here}/chat/completions", {"messages": ASK}, 400)
        for path in ("/episodes", "/chat/completions", "/close"):
            assert "unknown API key" in place.refused(here + path, {}, 401, "a guess")
        assert place.get("/v1/models")["data"][0]["id"] == "policy"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            place.get("/v1/episodes", "a guess")
        # looking around opens no episode, nor does a path that is none
        assert place.get("/episodes/somebody/v1/models")["data"][0]["id"] == "policy"
        assert "no such path: /v1/chat" in place.refused(f"{place.address}/episodes/somebody/v1/chat", {}, 404)
        assert place.get("/v1/episodes")["open"] == []
        for order, why in (({"task": "a b"}, "1 to 128 letters"), ({"tsk": "a"}, "tsk: ")):
            assert why in place.refused(f"{here}/episodes", order, 400)
        assert "in the base URL: must be" in place.refused(f"{place.address}/episodes/a%20b/v1/reward", {}, 400)
        opened = place.open()
        for reward in ({"reward": 1.5}, {"reward": "1"}, {"steps": 1}, {"reward": float("nan")}):
            place.refused(f"{opened['base_url']}/reward", reward, 400)
            place.refused(f"{opened['base_url']}/close", reward, 400)
        # an episode's own key opens nothing and closes no other
        assert "no such path" in place.refused(f"{here}/episodes", {}, 404, opened["api_key"])
        two = [place.open(), place.open()]
        assert "3 episodes are open (rollout.max_concurrency)" in place.refused(f"{here}/episodes", {}, 429)
        assert "3 episodes" in place.refused(f"{place.address}/episodes/one-more/v1/reward", {"reward": 1}, 429)
        for one in (opened, *two):
            assert "without asking the policy anything" in place.post(f"{one['base_url']}/close", {})["failure"]
        assert place.post(f"{place.address}/episodes/one-more/v1/reward", {"reward": 1}) == {"ok": True}

    ended = served(agent, Script([]), max_concurrency=3)
    assert [t.failure_kind for t in ended] == ["env_error"] * 4


def test_many_at_once() -> None:
    """Their streams do not mix: each finds its own number in what it was asked."""

    async def echo(prompt: list[int], max_tokens: int) -> Generation:
        await asyncio.sleep(0.02)
        return await Script([answer(str(len(prompt)))])(prompt, max_tokens)

    def one(place: Place, number: int) -> None:
        url = f"{place.address}/episodes/t{number}/v1"
        with place.client(url) as client:
            for _ in range(3):
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "2 " * number}])
        place.post(f"{url}/close", {"reward": number / 20})

    def agent(place: Place) -> None:
        with ThreadPoolExecutor(20) as pool:
            list(pool.map(lambda n: one(place, n), range(1, 21)))

    ended = served(agent, echo)
    assert {t.id: t.reward_parts["score/outcome"] for t in ended} == {f"t{n}": n / 20 for n in range(1, 21)}
    assert all(t.turns == 3 for t in ended)


def test_an_episode_that_nobody_closes_ends_by_itself() -> None:
    def agent(place: Place) -> None:
        opened = place.open()
        with place.client(opened["base_url"]) as client:
            client.chat.completions.create(model="m", messages=ASK)
        place.post(f"{opened['base_url']}/reward", {"reward": 0.5})
        until = time.monotonic() + 30
        while place.get("/v1/episodes")["open"]:
            assert time.monotonic() < until
            time.sleep(0.05)

    (t,) = served(agent, Script([answer("5")]), episode_s=0.5, step_s=1.0)
    assert (t.failure_kind, t.reward_parts["score/outcome"]) == (None, 0.5)


def test_the_end_closes_what_is_open_and_cancels_what_is_being_answered() -> None:
    begun = threading.Event()
    outcome: list[Any] = []
    waiting: list[threading.Thread] = []

    async def slow(prompt: list[int], max_tokens: int) -> Generation:
        begun.set()
        await asyncio.sleep(600)
        raise AssertionError

    def agent(place: Place) -> None:
        opened = place.open(task="left")

        def ask() -> None:
            with place.client(opened["base_url"]) as client:
                try:
                    client.chat.completions.create(model="m", messages=ASK)
                except openai.APIError as error:
                    outcome.append(error)

        waiting.append(threading.Thread(target=ask))
        waiting[0].start()
        assert begun.wait(60)

    (t,) = served(agent, slow)
    waiting[0].join(60)
    assert t.task_id == "left"
    assert t.failure_kind == "env_error"  # nothing was answered
    assert len(outcome) == 1


def test_an_engine_that_fails_ends_the_gateway() -> None:
    async def broken(prompt: list[int], max_tokens: int) -> Generation:
        raise RuntimeError("the engine is dead")

    def agent(place: Place) -> None:
        opened = place.open()
        with place.client(opened["base_url"]) as client, pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model="m", messages=ASK)
        assert "the gateway is closing" in place.refused(f"{place.address}/v1/episodes", {}, 503)

    with pytest.raises(RuntimeError, match="the engine is dead"):
        served(agent, broken)
