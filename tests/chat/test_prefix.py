"""An answer that the prompt begins, and a response format, in both renderers."""

from __future__ import annotations

import pytest
from chat_families import FAMILIES, renderer_of
from chat_fixtures import SEARCH, renderer

from envs.types import Message
from rl.chat import dsml
from rl.chat.hf_template import HFTemplateRenderer
from rl.chat.renderer import Renderer, RenderError
from rl.chat.session import Session, SessionError
from rl.chat.v32 import V32Renderer, render_text
from rl.data.demos import written

ASKED = (Message("system", "Be short."), Message("user", "Which metal?"))
BEGUN = Message("assistant", "The metal is", prefix=True)
ALL = Message("assistant", "The metal is tin.")
NAMES = ("v32", *FAMILIES)
FORMAT = {"type": "object", "properties": {"metal": {"type": "string"}}}
ASKS = '## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n{"type": "object", '
ASKS += '"properties": {"metal": {"type": "string"}}}'


def chat_of(name: str) -> V32Renderer | HFTemplateRenderer:
    return renderer() if name == "v32" else renderer_of(name)


def text_of(chat: Renderer, tokens: list[int]) -> str:
    assert isinstance(chat, V32Renderer | HFTemplateRenderer)
    text = chat.tokenizer.decode(tokens)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_policy_continues_what_is_given(name: str, thinking: bool) -> None:
    chat = chat_of(name)
    session = Session(chat, [*ASKED, BEGUN], thinking=thinking, max_context=10_000)
    opened = chat.render(ASKED, thinking=thinking)
    prompt = session.prompt_tokens()
    assert prompt == chat.render([*ASKED, BEGUN], thinking=thinking)
    assert prompt[: len(opened)] == opened
    assert text_of(chat, prompt).endswith("The metal is")
    assert session.is_cut_off
    said = written(chat, session.context, Message("assistant", ALL.content, reasoning="" if thinking and name == "v32"
                                                  else None), thinking=thinking)  # fmt: skip
    assert text_of(chat, said[:-1]).strip() == "tin."
    message = session.append_sampled(said, [-1.0] * len(said), 0, ended=True)
    assert (message.content, message.prefix, message.parse_error) == (ALL.content, False, None)
    assert session.messages == (*ASKED, message)
    (segment,) = session.segments()
    assert segment.tokens.tolist() == [*prompt, *said]
    assert segment.loss_mask.tolist() == [False] * len(prompt) + [True] * len(said)
    assert session.usage.output == len(said)
    assert (segment.versions.tolist(), segment.logprobs.tolist()[: len(prompt)]) == (
        [-1] * len(prompt) + [0] * len(said),
        [0.0] * len(prompt),
    )
    session.append_messages([Message("user", "Sure?")])
    if len(session.segments()) == 1 and name != "qwen3":
        assert session.prompt_tokens() == chat.render(session.messages, thinking=thinking)


@pytest.mark.parametrize(
    ("name", "given", "tail"),
    [
        ("v32", Message("assistant", reasoning="Let me", prefix=True), "<think>Let me"),
        ("v32", Message("assistant", "So", reasoning="hm", prefix=True), "<think>hm</think>So"),
        ("v32", Message("assistant", "So", prefix=True), "<think></think>So"),
        ("qwen3", Message("assistant", reasoning="Let me", prefix=True), "assistant\n<think>\nLet me"),
        ("qwen3", Message("assistant", "So", reasoning="hm", prefix=True), "<think>\nhm\n</think>\n\nSo"),
        ("qwen3", Message("assistant", "So", prefix=True), "assistant\n<think>\n\n</think>\n\nSo"),
        ("chatml", Message("assistant", "So", prefix=True), "assistant\nSo"),
    ],
)
def test_reasoning_that_is_given(name: str, given: Message, tail: str) -> None:
    """Without content the policy goes on thinking; with content the reasoning is over."""
    chat = chat_of(name)
    session = Session(chat, [*ASKED, given], thinking=True, max_context=10_000)
    assert text_of(chat, session.prompt_tokens()).endswith(tail)
    closes = "" if given.content else "</think>"
    assert isinstance(chat, V32Renderer | HFTemplateRenderer)
    said = [*chat.tokenizer.encode(f" see.{closes}tin"), chat.stop_token_ids[0]]
    message = session.append_sampled(said, [-1.0] * len(said), 0, ended=True)
    assert message.parse_error is None
    assert message.content == ("So see.tin" if given.content else "tin")
    assert (message.reasoning or "") == (given.reasoning or "" if given.content else "Let me see.")


def test_thinking_that_is_given_can_be_closed() -> None:
    """``rollout.max_thinking`` counts what is sampled; what closes it is no target, as what was given is none."""
    chat = chat_of("v32")
    session = Session(
        chat, [*ASKED, Message("assistant", reasoning="Let me", prefix=True)], thinking=True, max_context=999
    )
    prompt = session.prompt_tokens()
    assert isinstance(chat, V32Renderer)
    said = chat.tokenizer.encode(" see")
    session.append_sampled(said, [-1.0] * len(said), 0, ended=False)
    assert session.close_thinking()
    (segment,) = session.segments()
    assert segment.loss_mask.tolist() == [False] * len(prompt) + [True] * len(said) + [False]


@pytest.mark.parametrize(
    ("messages", "thinking", "says"),
    [
        ((*ASKED, BEGUN, Message("user", "So?")), False, r"messages\[2\]: prefix is for an assistant message"),
        ((Message("user", "Hi", prefix=True),), False, r"messages\[0\]: prefix is for an assistant message"),
        ((*ASKED, Message("assistant", "", reasoning="a", prefix=True)), False, "with reasoning needs thinking"),
        ((*ASKED, Message("assistant", parse_error="no", prefix=True)), False, "cannot be continued"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["v32", "chatml"])
def test_what_cannot_be_continued(name: str, messages: tuple[Message, ...], thinking: bool, says: str) -> None:
    with pytest.raises(RenderError, match=says):
        chat_of(name).render(messages, thinking=thinking)


def test_a_finished_message_is_no_prompt() -> None:
    with pytest.raises(SessionError, match="the prompt ends with assistant"):
        Session(chat_of("v32"), [*ASKED, ALL], thinking=False, max_context=99)


def test_a_demonstration_must_begin_with_what_is_given() -> None:
    chat = chat_of("chatml")
    assert text_of(chat, written(chat, [*ASKED, BEGUN], ALL, thinking=False)) == " tin.<|im_end|>"
    with pytest.raises(ValueError, match="message 2 does not begin with the tokens of what was given"):
        written(chat, [*ASKED, BEGUN], Message("assistant", "It is tin."), thinking=False)


def test_a_response_format_in_v32_s_words() -> None:
    """System: behind the tools. Developer: between tools and the user's message (the official encoder's order)."""
    system = Message("system", "S", tools=(SEARCH,), response_format=FORMAT)
    text = render_text([system, Message("user", "Q")], thinking=False)
    assert text == f"{dsml.BOS}S\n\n{dsml.tools_block([SEARCH])}\n\n{ASKS}<｜User｜>Q<｜Assistant｜></think>"
    developer = Message("developer", "Q", response_format=FORMAT)
    text = render_text([developer], thinking=True)
    assert text == f"{dsml.BOS}<｜User｜>\n\n{ASKS}\n\n# The user's message is: Q<｜Assistant｜><think>"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_response_format_in_a_chat_template(name: str) -> None:
    chat = chat_of(name)
    asked = Message("system", "S", response_format=FORMAT)
    plain = Message("system", f"S\n\n{ASKS}")
    assert chat.render([asked, ASKED[1]], thinking=False) == chat.render([plain, ASKED[1]], thinking=False)
    assert chat.render([asked, ASKED[1]], thinking=False) != chat.render(ASKED, thinking=False)
    alone = Message("system", response_format=FORMAT)
    assert ASKS in text_of(chat, chat.render([alone, ASKED[1]], thinking=False))
