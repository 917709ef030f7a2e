"""A program drives, by the real OpenAI client over HTTP, and a scripted policy answers: what is told and trained on."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from rollout_doubles import AddEnv, Script, answer, call, play, tokenizer

from envs.driving import DrivingEnvironment, Endpoint
from envs.environment import Environment
from envs.types import Episode, InfrastructureError, Message, StopReason, Task
from rl.chat.context_manager import ContextConfig
from rl.rollout.engine_api import Generation
from rl.rollout.gateway import Gateway
from rl.types import Trajectory

TOOLS: list[Any] = [{"type": "function", "function": t.schema} for t in AddEnv(Task("t", "t", ())).tools.values()]
ASK: list[Any] = [{"role": "system", "content": "Use the tools."}, {"role": "user", "content": "What is 3 plus 2?"}]
ADD = call("add", a=3, b=2)


def create(client: openai.OpenAI, messages: Sequence[Any], **settings: Any) -> Any:
    return client.chat.completions.create(model="policy", messages=list(messages), **settings).choices[0]


def calculator(client: openai.OpenAI) -> str:
    """The usual loop, which forgets the reasoning."""
    messages = list(ASK)
    while True:
        said = create(client, messages, tools=TOOLS).message
        if not said.tool_calls:
            return str(said.content).strip()
        messages.append(said.model_dump(include={"role", "tool_calls"}))
        for made in said.tool_calls:
            a = json.loads(made.function.arguments)
            messages.append({"role": "tool", "tool_call_id": made.id, "content": str(a["a"] + a["b"])})


def driven(agent: Callable[[openai.OpenAI], Any], seen: list[Endpoint] | None = None) -> Callable[[Task], Environment]:
    """An environment in which ``agent`` drives; it scores whether what comes back is the answer."""

    class Driving(DrivingEnvironment):
        def drive(self, endpoint: Endpoint) -> None:
            if seen is not None:
                seen.append(endpoint)
            with openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0) as client:
                self.result = agent(client)

        def score(self, episode: Episode) -> dict[str, float]:
            return {"outcome": float(self.result == self.task.answer), "turns": episode.turns / 10}

    return Driving


def exact(trajectory: Trajectory, script: Script) -> None:
    """What the policy saw and said is found in just one segment each, and nothing else is a target."""
    vocabulary, total = tokenizer(), 0
    for prompt, text in zip(script.prompts, script.texts, strict=False):
        said = [*vocabulary.encode(str(text)), vocabulary.eos_id]
        here, end = len(prompt), len(prompt) + len(said)
        hits = [
            s for s in trajectory.segments if s.tokens[:end].tolist() == prompt + said and s.loss_mask[here:end].all()
        ]
        assert len(hits) == 1
        total += len(said)
    assert sum(int(s.loss_mask.sum()) for s in trajectory.segments) == total == trajectory.sampled_tokens
    for segment in trajectory.segments:
        assert (segment.versions[segment.loss_mask] == script.version).all()
        assert (segment.logprobs[segment.loss_mask] == -0.5).all()


def test_a_loop_of_tool_calls_is_one_segment() -> None:
    script = Script([ADD, call("add", a=5, b=0), answer("5")])
    heard: list[Message] = []
    t = play([], driven(calculator), generate=script, observe=heard.append)
    assert (t.failure_kind, t.stop_reason, t.turns, t.reward) == (None, StopReason.ANSWERED, 3, 1.0)
    assert t.reward_parts["score/turns"] == 0.3
    exact(t, script)
    assert len(t.segments) == 1
    assert [m["role"] for m in t.messages] == ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]
    assert [m.to_json() for m in heard] == t.messages
    assert t.counts == {}
    assert (t.usage.requests, t.usage.output) == (3, t.sampled_tokens)


def test_a_stream_says_the_same() -> None:
    def agent(client: openai.OpenAI) -> str:
        with client.chat.completions.stream(model="m", messages=ASK) as events:
            for _ in events:
                pass
            return str(events.get_final_completion().choices[0].message.content)

    script = Script([answer("5")])
    t = play([], driven(agent), generate=script)
    assert t.reward == 1.0
    exact(t, script)


def test_usage_is_that_of_the_policy() -> None:
    used: list[Any] = []

    def agent(client: openai.OpenAI) -> None:
        used.append(client.chat.completions.create(model="m", messages=ASK).usage)

    t = play([answer("5")], driven(agent))
    assert (used[0].prompt_tokens, used[0].completion_tokens) == (t.usage.prompt, t.usage.output)


def test_what_does_not_parse_is_the_policys_affair() -> None:
    """The program hears of the second try alone, and its history, without the first, is still known."""
    script = Script([ADD.replace("</｜DSML｜invoke>", ""), ADD, answer("5")])
    t = play([], driven(calculator), generate=script)
    assert t.reward_parts["score/outcome"] == 1.0
    exact(t, script)
    assert t.counts == {"malformed_call": 1}
    assert t.messages[3]["content"].startswith("Error: ")
    assert len(t.segments) == 1


def test_two_at_once_and_a_dialogue_beside() -> None:
    """A vote of two, then a summary in a dialogue of its own: no stream is shared, nothing is lost."""

    def agent(client: openai.OpenAI) -> str:
        with ThreadPoolExecutor(2) as pool:
            votes = list(pool.map(lambda _: create(client, ASK).message.content, range(2)))
        summary = create(client, [{"role": "user", "content": "The sum?"}]).message.content
        return str(summary) if votes == ["5", "5"] else ""

    script = Script([answer("5")] * 3)
    t = play([], driven(agent), generate=script)
    assert t.reward == 1.0
    assert len(t.segments) == 3
    assert t.counts == {"dialogue_branched": 1, "dialogue_begun": 1}
    assert sum(int(s.loss_mask.sum()) for s in t.segments) == t.sampled_tokens
    assert [m.get("context") for m in t.messages].count("dialogue") == 2


def test_rewritten_history_is_context() -> None:
    def agent(client: openai.OpenAI) -> str:
        create(client, ASK)
        claimed = {"role": "assistant", "content": "I never said that."}
        return str(create(client, [*ASK, claimed, {"role": "user", "content": "Sure?"}]).message.content)

    script = Script([answer("6"), answer("5")])
    t = play([], driven(agent), generate=script)
    assert t.reward == 1.0
    exact(t, script)
    assert t.counts == {"history_rewritten": 1}
    assert "I never said that." in tokenizer().decode(script.prompts[1])


def test_scores_are_of_what_the_policy_said() -> None:
    """What a program claims in a history that it has rewritten is no answer of the policy, and the last one it gave is
    its last, whatever was asked in vain behind it."""
    seen: list[Episode] = []
    claimed = {"role": "assistant", "content": "I never said that."}

    class Claiming(DrivingEnvironment):
        def drive(self, endpoint: Endpoint) -> None:
            with openai.OpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=0) as client:
                create(client, ASK)
                create(client, [*ASK, claimed, {"role": "user", "content": "Sure?"}])
                with pytest.raises(openai.BadRequestError):
                    create(client, [*ASK, claimed, {"role": "user", "content": "Sure? " * 2000}])

        def score(self, episode: Episode) -> dict[str, float]:
            seen.append(episode)
            return {"outcome": 1.0}

    t = play([answer("6"), answer("5")], Claiming)
    assert (t.turns, t.reward) == (2, 1.0)
    assert [message.content for message in seen[0].sampled] == ["6", "5"]
    assert seen[0].answer == "5"


def test_a_repeated_request_gets_the_first_answer() -> None:
    """The client hangs up and sends the same body again, as OpenAI's does after its timeout."""
    release = asyncio.Event()
    loop: list[asyncio.AbstractEventLoop] = []
    script = Script([answer("5"), answer("other")])

    async def slow(prompt: list[int], max_tokens: int) -> Generation:
        loop[:] = [asyncio.get_running_loop()]
        asked.set()
        await release.wait()
        return await script(prompt, max_tokens)

    asked = threading.Event()
    body = json.dumps({"messages": ASK, "tools": TOOLS})

    class Impatient(DrivingEnvironment):
        def drive(self, endpoint: Endpoint) -> None:
            url = urlsplit(endpoint.base_url)
            first, second = (http.client.HTTPConnection("127.0.0.1", url.port or 0) for _ in range(2))
            first.request("POST", f"{url.path}/chat/completions", body)
            asked.wait(30)
            first.close()
            second.request("POST", f"{url.path}/chat/completions", body)
            loop[0].call_soon_threadsafe(release.set)
            self.said = json.load(second.getresponse())["choices"][0]["message"]["content"]
            second.close()

        def score(self, episode: Episode) -> dict[str, float]:
            return {"outcome": float(self.said == "5")}

    t = play([], Impatient, generate=slow)
    assert t.reward == 1.0
    assert t.turns == len(script.prompts) == 1
    assert t.counts == {"request_repeated": 1}


def test_a_client_that_says_it_repeats() -> None:
    def agent(client: openai.OpenAI) -> str:
        create(client, ASK)
        return str(create(client, ASK, extra_headers={"x-stainless-retry-count": "1"}).message.content)

    t = play([answer("5")], driven(agent))
    assert (t.reward, t.turns, t.counts) == (1.0, 1, {"request_repeated": 1})


def test_stop_texts_end_the_answer_and_what_came_behind_was_never_drawn() -> None:
    def agent(client: openai.OpenAI) -> str:
        first = create(client, ASK, stop=["Error:"])
        assert first.finish_reason == "stop"
        said = str(first.message.content)
        after = [*ASK, {"role": "assistant", "content": said}, {"role": "user", "content": "Add"}]
        return said + str(create(client, after).message.content)

    script = Script([answer("The sum Error: failed"), answer("is 5")])
    t = play([], driven(lambda client: str(agent(client) == "The sum is 5" and 5)), generate=script)
    assert t.reward == 1.0
    texts = [tokenizer().decode(s.tokens[s.loss_mask].tolist()) for s in t.segments]
    assert texts[0].endswith("The sum Error:")
    assert t.counts == {}


def test_an_answer_that_is_cut_off_goes_out_as_it_is() -> None:
    reasons: list[str] = []

    def agent(client: openai.OpenAI) -> str:
        first = create(client, ASK, max_tokens=6)
        reasons.append(first.finish_reason)
        after = [*ASK, {"role": "assistant", "content": first.message.content}, {"role": "user", "content": "Go on"}]
        return str(create(client, after).message.content)

    t = play([40, answer("5")], driven(agent))
    assert reasons == ["length"]
    assert (t.reward, t.stop_reason, t.turns) == (1.0, StopReason.ANSWERED, 2)


def test_the_limit_of_turns_is_the_policys_and_scored() -> None:
    t = play([ADD] * 4, driven(calculator), max_turns=3)
    assert (t.failure_kind, t.stop_reason, t.turns) == (None, StopReason.MAX_TURNS, 3)
    assert t.reward_parts["score/outcome"] == 0.0
    assert t.counts == {"max_turns": 1}


def at_once(count: int, outcomes: list[str]) -> Callable[[openai.OpenAI], str]:
    """An agent that asks ``count`` things in ``count`` threads."""

    def ask(client: openai.OpenAI, number: int) -> str:
        try:
            return str(create(client, [{"role": "user", "content": f"Add {number}"}]).message.content)
        except openai.PermissionDeniedError as error:
            return str(error.code)

    def agent(client: openai.OpenAI) -> str:
        with ThreadPoolExecutor(count) as pool:
            outcomes.extend(pool.map(lambda number: ask(client, number), range(count)))
        return "5"

    return agent


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"max_turns": 3}, "max_turns"),
        ({"max_turns": 16, "context": ContextConfig(max_total_tokens=150)}, "total_tokens"),
    ],
)
def test_a_limit_holds_for_answers_at_once(settings: dict[str, Any], why: str) -> None:
    """Seven requests come while none is answered: what is being sampled counts, and an answer to an earlier request
    does not make up for the refusal."""
    script = Script([answer("5")] * 7)
    came = asyncio.Event()

    async def slow(prompt: list[int], max_tokens: int) -> Generation:
        if not came.is_set():
            asyncio.get_running_loop().call_later(1.0, came.set)
        await came.wait()
        return await script(prompt, max_tokens)

    outcomes: list[str] = []
    t = play([], driven(at_once(7, outcomes)), generate=slow, max_tokens=30, **settings)
    assert outcomes.count("5") == t.turns == len(t.segments)
    assert outcomes.count(why) == 7 - t.turns > 0
    assert (t.stop_reason.value, t.reward) == (why, 1.0)
    if why == "max_turns":
        assert t.turns == 3
    else:
        assert t.turns > 0
        assert t.total_tokens <= 150


def test_a_full_window_is_said_and_a_program_may_send_less() -> None:
    codes: list[Any] = []

    def agent(client: openai.OpenAI) -> str:
        with pytest.raises(openai.BadRequestError) as caught:
            create(client, [{"role": "user", "content": "What is 2 plus 3? " * 200}])
        codes.append(caught.value.code)
        return str(create(client, ASK).message.content)

    t = play([answer("5")], driven(agent))
    assert codes == ["context_length_exceeded"]
    assert (t.reward, t.stop_reason) == (1.0, StopReason.ANSWERED)


def test_a_request_that_makes_no_sense_is_refused_in_words() -> None:
    def agent(client: openai.OpenAI) -> str:
        for messages, why in (
            ([{"role": "robot", "content": ""}], "role 'robot'"),
            ([*ASK, {"role": "assistant", "content": "5"}], "role 'assistant'"),
        ):
            with pytest.raises(openai.BadRequestError, match=why):
                create(client, messages)
        with pytest.raises(openai.BadRequestError, match="n=3"):
            create(client, ASK, n=3)
        return str(create(client, ASK).message.content)

    t = play([answer("5")], driven(agent))
    assert (t.reward, t.counts) == (1.0, {"request_refused": 1})


def raises(error: Exception, after: int) -> Callable[[openai.OpenAI], Any]:
    def agent(client: openai.OpenAI) -> None:
        for _ in range(after):
            create(client, ASK)
        raise error

    return agent


def test_an_agent_that_raises() -> None:
    """After the policy has spoken it is the policy's doing, or it would learn to cause it; before, and where the agent
    says so, nobody's."""
    t = play([answer("5")], driven(raises(KeyError("item"), 1)))
    assert (t.failure_kind, t.stop_reason, t.reward_parts["score/outcome"]) == (None, StopReason.ANSWERED, 0.0)
    assert t.counts == {"agent_raised": 1}
    assert "KeyError: 'item'" in t.failure_detail
    for error, after in ((KeyError("item"), 0), (InfrastructureError("no disk"), 1)):
        t = play([answer("5")], driven(raises(error, after)))
        assert (t.failure_kind, t.stop_reason) == ("env_error", StopReason.ENV_ERROR)
        assert type(error).__name__ in t.failure_detail


def test_an_agent_that_asks_nothing() -> None:
    t = play([], driven(lambda client: "5"))
    assert t.failure_kind == "env_error"
    assert "without asking the policy anything" in t.failure_detail


def test_an_agent_that_hangs() -> None:
    def agent(client: openai.OpenAI) -> None:
        create(client, ASK)
        time.sleep(600)

    t = play([answer("5")], driven(agent), episode_s=2.0, step_s=1.0)
    assert (t.failure_kind, t.stop_reason) == ("env_timeout", StopReason.ENV_TIMEOUT)
    assert "drive took longer than 3 s" in t.failure_detail


def test_an_episode_out_of_time() -> None:
    async def never(prompt: list[int], max_tokens: int) -> Generation:
        await asyncio.sleep(600)
        raise AssertionError

    script = Script([ADD])

    async def then_never(prompt: list[int], max_tokens: int) -> Generation:
        return await (never if script.prompts else script)(prompt, max_tokens)

    t = play([], driven(calculator), generate=then_never, episode_s=6.0, step_s=60.0)
    assert (t.failure_kind, t.stop_reason) == (None, StopReason.EPISODE_TIME)
    assert t.counts == {"episode_time": 1}


def test_an_engine_that_fails_is_no_affair_of_the_agent() -> None:
    async def broken(prompt: list[int], max_tokens: int) -> Generation:
        raise RuntimeError("the engine is dead")

    with pytest.raises(RuntimeError, match="the engine is dead"):
        play([], driven(calculator), generate=broken)


def test_a_request_that_the_engine_gives_up() -> None:
    async def aborted(prompt: list[int], max_tokens: int) -> Generation:
        return Generation([5], [-0.5], "abort", 0, [0])

    t = play([], driven(calculator), generate=aborted)
    assert (t.failure_kind, t.stop_reason) == ("aborted", StopReason.ABORTED)


def test_a_key_is_good_for_one_episode() -> None:
    """What an agent leaves behind, a thread that still asks, gets nothing any more, and is not waited for."""
    seen: list[Endpoint] = []
    outcome: list[Any] = []

    async def slow(prompt: list[int], max_tokens: int) -> Generation:
        if len(script.prompts) == 1:
            await asyncio.sleep(600)
        return await script(prompt, max_tokens)

    script = Script([answer("5")])
    left: list[threading.Thread] = []

    def agent(client: openai.OpenAI) -> str:
        said = str(create(client, ASK).message.content)
        other = client.with_options(timeout=60)

        def ask() -> None:
            try:
                outcome.append(create(other, [{"role": "user", "content": "more"}]))
            except Exception as error:
                outcome.append(error)

        left.append(threading.Thread(target=ask))
        left[0].start()
        time.sleep(0.3)
        return said

    t = play([], driven(agent, seen), generate=slow)
    left[0].join(60)
    assert (t.reward, t.turns) == (1.0, 1)
    assert isinstance(outcome[0], openai.APIError)
    assert len(t.segments) == 1
    assert seen[0].base_url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "127.0.0.1"), ("a.example", "a.example,127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("*", "*")],
)
def test_this_machine_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch, before: str, after: str) -> None:
    """ "*" means all hosts only where it stands alone."""

    async def open_one() -> None:
        Gateway().close()

    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, before)
    asyncio.run(open_one())
    assert {os.environ[name] for name in ("NO_PROXY", "no_proxy")} == {after}
