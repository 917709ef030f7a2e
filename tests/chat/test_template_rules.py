"""Chat templates that raise errors of their own: no system role, alternating roles, no empty message, no tool role."""

from __future__ import annotations

import pytest
from chat_fixtures import SEARCH
from test_hf_template import CALL, CALL_TEXT, CHATML, HERMES, chat_renderer, text_of

from envs.types import Message
from rl.chat.hf_template import HFTemplateRenderer
from rl.chat.renderer import RenderError
from rl.chat.session import Session
from rl.chat.template_rules import TemplateRules


def refusing(condition: str, template: str = CHATML) -> str:
    """``template`` with a rule: raise where ``condition`` holds for a message ``m``."""
    rule = "{% if " + condition + " %}{{ raise_exception('the rule') }}{% endif %}"
    return "{% for m in messages %}" + rule + "{% endfor %}" + template


NO_SYSTEM = refusing("m.role == 'system'")
ALTERNATE = refusing("loop.previtem is defined and loop.previtem.role == m.role")
NO_EMPTY = refusing("not m.content")
NO_TOOL_ROLE = refusing("m.role == 'tool'", HERMES)
PROMPT = (Message("system", "S"), Message("user", "hi"))


@pytest.mark.parametrize(
    ("template", "rules"),
    [
        (CHATML, TemplateRules(system=True, user_runs=True, empty=True)),
        (
            CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"),
            TemplateRules(system=False, user_runs=True, empty=True),
        ),  # it leaves the system text out
        (NO_SYSTEM, TemplateRules(system=False, user_runs=True, empty=True)),
        (ALTERNATE, TemplateRules(system=True, user_runs=False, empty=True)),
        (NO_EMPTY, TemplateRules(system=True, user_runs=True, empty=False)),
    ],
)
def test_rules_are_found_by_rendering(template: str, rules: TemplateRules) -> None:
    assert chat_renderer(template)._rules == rules


def rendered(template: str, *messages: Message) -> str:
    chat = chat_renderer(template)
    return text_of(chat, chat.render(messages, thinking=False))


def test_system_text_goes_before_the_first_user_message() -> None:
    expected = "<|im_start|>user\nS\n\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert rendered(NO_SYSTEM, *PROMPT) == expected
    assert rendered(NO_SYSTEM, Message("system", ""), PROMPT[1]) == expected.replace("S\n\n", "")


def test_user_messages_in_a_row_become_one() -> None:
    users = (Message("user", "hi"), Message("user", "there"))
    assert rendered(ALTERNATE, *users) == "<|im_start|>user\nhi\n\nthere<|im_end|>\n<|im_start|>assistant\n"
    assert "<|im_start|>user\nhi<|im_end|>\n<|im_start|>user\nthere" in rendered(CHATML, *users)


def test_an_empty_message_is_rendered_as_it_is() -> None:
    turns = (*PROMPT, Message("assistant", ""), Message("user", "speak"))
    assert rendered(NO_EMPTY, *turns) == rendered(CHATML, *turns)


@pytest.mark.parametrize("template", [NO_SYSTEM, ALTERNATE, NO_EMPTY, NO_TOOL_ROLE])
def test_a_tool_cycle_in_one_segment(template: str) -> None:
    chat = chat_renderer(template)
    assert chat.tool_style == "prompt"
    prompt = [Message("system", "", tools=(SEARCH,)), Message("user", "Which metal?")]
    session = Session(chat, prompt, thinking=False, max_context=10_000)
    assert '"search"' in text_of(chat, session.prompt_tokens())
    said = [*chat.tokenizer.encode(CALL_TEXT), *chat.stop_token_ids]
    assert session.append_sampled(said, [-1.0] * len(said), 0, ended=True) == Message("assistant", tool_calls=(CALL,))
    session.append_messages([Message("tool", "a metal"), Message("user", "Hurry.")])
    assert text_of(chat, session.prompt_tokens()) == rendered(template, *session.messages)
    assert "<tool_response>\na metal\n</tool_response>" in rendered(template, *session.messages)
    session.append_sampled(said[-1:], [-1.0], 0, ended=True)  # nothing but the stop token
    session.append_messages([Message("user", "Speak.")])
    assert len(session.segments()) == 1


def test_another_rule_is_an_error_that_names_the_template() -> None:
    chat = chat_renderer(refusing("m.content == 'bad'"))
    with pytest.raises(RenderError, match="refuses the messages system, user: the rule"):
        chat.render([Message("system", "S"), Message("user", "bad")], thinking=False)


def test_a_template_that_refuses_every_dialogue_is_refused_at_load() -> None:
    from copy import deepcopy

    tokenizer = deepcopy(chat_renderer(CHATML).tokenizer)
    tokenizer.chat_template = refusing("m.role == 'assistant'")
    with pytest.raises(ValueError, match="refuses a dialogue of user and assistant: the rule"):
        HFTemplateRenderer(tokenizer)
