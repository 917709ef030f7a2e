"""Thinking retention: what each rule renders, and that sessions stay token-true under all of them."""

from __future__ import annotations

import pytest
from chat_fixtures import SEARCH, assistants, plain, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_hf_template import CHATML, HERMES, chat_renderer

from envs.types import Message, ToolCall
from rl.chat.hf_template import HFTemplateRenderer
from rl.chat.renderer import Retention, check_retention
from rl.chat.session import Session
from rl.chat.v32 import V32Renderer, render_text

PROMPT = (Message("system", "S", tools=(SEARCH,)), Message("user", "U1"))
RETENTIONS: tuple[Retention, ...] = ("cycle", "drop", "keep")


def said(reasoning: str, content: str = "", *, calls: int = 0) -> Message:
    return Message("assistant", content, reasoning=reasoning, tool_calls=(ToolCall("f", {}),) * calls)


DIALOGUE = (
    Message("system", "S"),
    Message("user", "U1"),
    said("R1", calls=1),
    Message("tool", "T1"),
    said("R2", "A1"),
    Message("user", "U2"),
    said("R3", calls=1),
    Message("tool", "T2"),
)


@pytest.mark.parametrize(
    ("retention", "kept"),
    [("cycle", ["R3"]), ("drop", []), ("keep", ["R1", "R2", "R3"])],
)
def test_which_reasoning_stays_before_a_turn(retention: Retention, kept: list[str]) -> None:
    text = render_text(DIALOGUE, thinking=True, retention=retention)
    assert [r for r in ("R1", "R2", "R3") if r in text] == kept
    # a past turn with its reasoning is opened by <think>, every other one by </think>; the new one by <think>
    assert text.count("<think>") == len(kept) + 1
    assert text.count("</think>") == 3
    assert text.endswith("</function_results>\n\n<think>")
    assert all(part in text for part in ("T1", "A1", "T2"))  # calls, results and answers always stay


def test_the_message_being_written_has_its_reasoning() -> None:
    for retention in RETENTIONS:
        before = render_text(DIALOGUE, thinking=True, retention=retention)
        after = render_text([*DIALOGUE, said("R4", "A2")], thinking=True, retention=retention)
        assert after == f"{before}R4</think>A2<｜end▁of▁sentence｜>"


def test_without_thinking_the_rules_are_one() -> None:
    texts = {render_text(DIALOGUE, thinking=False, retention=retention) for retention in RETENTIONS}
    assert len(texts) == 1


def test_two_user_messages_in_a_row_open_no_reasoning_between_them() -> None:
    text = render_text([Message("user", "U1"), Message("user", "U2")], thinking=True, retention="keep")
    assert text.endswith("<｜User｜>U1<｜Assistant｜></think><｜User｜>U2<｜Assistant｜><think>")


def test_unknown_retention_is_named() -> None:
    with pytest.raises(ValueError, match=r"rollout.retention='never': must be one of cycle, drop, keep"):
        check_retention("never")


def run(session: Session, renderer: V32Renderer, data: st.DataObject) -> tuple[int, list[str]]:
    """A random dialogue; tokens sampled, and who said something behind each of the policy's turns."""
    sampled, followed = 0, []
    for _ in range(data.draw(st.integers(1, 6))):
        prompt = session.prompt_tokens()
        action = data.draw(assistants(True))
        context = session.context
        tokens = renderer.render([*context, action], thinking=True)[len(renderer.render(context, thinking=True)) :]
        message = session.append_sampled(tokens, [-1.0] * len(tokens), 0, ended=True)
        sampled += len(tokens)
        assert session.segments()[-1].tokens.tolist() == prompt + tokens  # what the engine saw and said
        if message.tool_calls and data.draw(st.booleans()):
            session.append_messages([Message("tool", data.draw(plain)) for _ in message.tool_calls])
            followed.append("tool")
        else:
            session.append_messages([Message("user", data.draw(plain))])
            followed.append("user")
    return sampled, followed


@pytest.mark.parametrize("retention", RETENTIONS)
@settings(max_examples=60)
@given(st.data())
def test_sessions_stay_token_true(retention: Retention, data: st.DataObject) -> None:
    """keep: one segment, append-only. cycle: a branch per user message. drop: a branch per turn. Nothing is lost."""
    renderer = V32Renderer(tiny_tokenizer(), retention)
    session = Session(renderer, PROMPT, thinking=True, max_context=10**6)
    sampled, followed = run(session, renderer, data)
    segments = session.segments()
    assert sum(int(s.loss_mask.sum()) for s in segments) == sampled
    branches = {"keep": 0, "cycle": followed[:-1].count("user"), "drop": len(followed) - 1}[retention]
    assert len(segments) == branches + 1
    # the next prompt is what the dialogue renders to, and so what a server that renders anew would see
    assert session.prompt_tokens() == renderer.render(session.messages, thinking=True)


@pytest.mark.parametrize("retention", RETENTIONS)
@settings(max_examples=40)
@given(st.data())
def test_render_after_is_the_difference_of_two_renderings(retention: Retention, data: st.DataObject) -> None:
    renderer = V32Renderer(tiny_tokenizer(), retention)
    action = data.draw(assistants(True))
    results = tuple(Message("tool", data.draw(plain)) for _ in action.tool_calls)
    before = [*DIALOGUE, action]
    new = results or (Message("user", data.draw(plain)),)
    added = renderer.render_after(before, new, thinking=True)
    whole = renderer.render([*before, *new], thinking=True)
    if added is None:
        assert retention == "drop" or (retention == "cycle" and not results)
    else:
        assert renderer.render(before, thinking=True) + added == whole


# what some templates do: all reasoning of all turns
KEEPING = HERMES.replace("m.reasoning_content and loop.index0 > ns.last", "m.reasoning_content")
# Qwen3's rule: a think block inside the content of an earlier turn goes as well
STRIPPING = CHATML.replace("m.content", "m.content.split('</think>')[-1]")


def hf(template: str, retention: Retention) -> HFTemplateRenderer:
    return HFTemplateRenderer(chat_renderer(template).tokenizer, retention=retention)


def text(renderer: HFTemplateRenderer, messages: tuple[Message, ...] = DIALOGUE) -> str:
    return renderer.tokenizer.decode(renderer.render(messages, thinking=True))


@pytest.mark.parametrize(
    ("template", "retention", "kept"),
    [
        (HERMES, "cycle", ["R3"]),
        (HERMES, "drop", []),
        (KEEPING, "keep", ["R1", "R2", "R3"]),
        (CHATML, "keep", ["R1", "R2", "R3"]),  # knows no reasoning: it stands in the content
        (CHATML, "drop", []),
    ],
)
def test_templates(template: str, retention: Retention, kept: list[str]) -> None:
    assert [r for r in ("R1", "R2", "R3") if r in text(hf(template, retention))] == kept


def test_a_template_that_cannot_keep_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rollout.retention=keep: the chat template .* use cycle or drop"):
        hf(STRIPPING, "keep")


@pytest.mark.parametrize("template", [HERMES, CHATML])
def test_drop_branches_at_every_turn_also_where_the_template_shows_no_reasoning(template: str) -> None:
    chat = hf(template, "drop")
    session = Session(chat, PROMPT, thinking=True, max_context=10_000)
    call = '<think>\nlook\n</think>\n\n<tool_call>\n{"name": "search", "arguments": {}}\n</tool_call>'
    for turn in range(2):
        tokens = [*chat.tokenizer.encode(call), *chat.stop_token_ids]
        session.append_sampled(tokens, [0.0] * len(tokens), 0, ended=True)
        session.append_messages([Message("tool", "tin")])
        assert len(session.segments()) == turn + 1
        assert "look" not in chat.tokenizer.decode(session.prompt_tokens())
