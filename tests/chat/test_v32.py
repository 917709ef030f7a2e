"""The V3.2 format: golden strings, equality with another encoder, round trips, errors."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from chat_fixtures import SEARCH, assistants, plain, renderer
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.types import Message, ToolCall
from rl.chat import dsml
from rl.chat.renderer import RenderError
from rl.chat.v32 import parse_text, render_text

B, E, U, A = dsml.BOS, dsml.EOS, dsml.USER, dsml.ASSISTANT
CALL = ToolCall("f", {"x": "1"})
CALL_TEXT = (
    "<｜DSML｜function_calls>\n"
    '<｜DSML｜invoke name="f">\n'
    '<｜DSML｜parameter name="x" string="true">1</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n"
    "</｜DSML｜function_calls>"
)
LOOP = [
    Message("user", "U1"),
    Message("assistant", "", reasoning="R1", tool_calls=(CALL, CALL)),
    Message("tool", "r1"),
    Message("tool", "r2"),
]
INVOKE_TEXT = "\n".join(CALL_TEXT.splitlines()[1:-1])
TWO_CALLS = CALL_TEXT.replace(INVOKE_TEXT, f"{INVOKE_TEXT}\n{INVOKE_TEXT}")
RESULTS = "\n\n<function_results>\n<result>r1</result>\n<result>r2</result>\n</function_results>\n\n"


def test_tools_block_is_the_official_text() -> None:
    template = dsml.TOOLS_TEMPLATE
    assert len(template) == 1210
    digest = hashlib.sha256(template.encode()).hexdigest()
    assert digest == "0cc91e644b79c4f576bbe968ed31a1bc8f825c0a4617730109df29d07f75f79a"


def test_one_user_message() -> None:
    hi = [Message("user", "hi")]
    assert render_text(hi, thinking=True) == f"{B}{U}hi{A}<think>"
    assert render_text(hi, thinking=False) == f"{B}{U}hi{A}</think>"
    assert render_text(hi, thinking=True, add_bos=False) == f"{U}hi{A}<think>"


def test_a_new_user_turn_drops_reasoning() -> None:
    messages = [
        Message("system", "S"),
        Message("user", "U1"),
        Message("assistant", "A1", reasoning="R1"),
        Message("user", "U2"),
    ]
    assert render_text(messages[:3], thinking=True) == f"{B}S{U}U1{A}<think>R1</think>A1{E}"
    assert render_text(messages, thinking=True) == f"{B}S{U}U1{A}</think>A1{E}{U}U2{A}<think>"


def test_tool_loop_keeps_reasoning_until_the_next_user() -> None:
    open_loop = f"{B}{U}U1{A}<think>R1</think>\n\n{TWO_CALLS}{E}{RESULTS}"
    assert render_text(LOOP, thinking=True) == f"{open_loop}<think>"
    done = [*LOOP, Message("assistant", "done", reasoning="R2")]
    assert render_text(done, thinking=True) == f"{open_loop}<think>R2</think>done{E}"
    history = f"{B}{U}U1{A}</think>\n\n{TWO_CALLS}{E}{RESULTS}</think>done{E}"
    assert render_text([*done, Message("user", "U2")], thinking=True) == f"{history}{U}U2{A}<think>"


def test_values() -> None:
    arguments = {"a": 1.5, "b": True, "c": [1, "x"], "d": None, "e": 'a<b&"q"', "f": {"k": "ä"}}
    text = dsml.write_calls([ToolCall("f", arguments)])
    for written in (
        '"a" string="false">1.5<',
        '"b" string="false">true<',
        '"c" string="false">[1, "x"]<',
        '"d" string="false">null<',
        '"e" string="true">a<b&"q"<',
        '"f" string="false">{"k": "ä"}<',
    ):
        assert f"parameter name={written}/｜DSML｜parameter>" in text
    assert dsml.parse_calls(text) == (ToolCall("f", arguments),)


def test_a_call_without_arguments() -> None:
    text = dsml.write_calls([ToolCall("f")])
    assert text == (
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n\n</｜DSML｜invoke>\n</｜DSML｜function_calls>'
    )
    assert dsml.parse_calls(text) == (ToolCall("f"),)


def test_fewer_results_than_calls_leave_the_block_open() -> None:
    assert render_text(LOOP[:3], thinking=True).endswith("<function_results>\n<result>r1</result>")


def test_results_after_a_malformed_call() -> None:
    bad = Message("assistant", "raw", reasoning="R", parse_error="wrong")
    text = render_text([LOOP[0], bad, Message("tool", "Error: wrong")], thinking=True)
    result = "\n\n<function_results>\n<result>Error: wrong</result>\n</function_results>\n\n<think>"
    assert text == f"{B}{U}U1{A}<think>R</think>raw{E}{result}"


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([Message("user", "u"), Message("assistant", "a")], "needs reasoning"),
        (
            [Message("user", "u"), Message("assistant", "a", reasoning="r"), Message("tool", "t")],
            r"for 0 call",
        ),
        ([*LOOP, Message("tool", "r3")], "tool result 3 for 2 call"),
        ([Message("tool", "t")], "needs an assistant message"),
        ([Message("developer", "")], "needs content"),
        ([Message("user", "u", tools=(SEARCH,))], "has tools"),
        ([Message("critic", "u")], "unknown role 'critic'"),  # type: ignore[arg-type]
    ],
)
def test_what_the_format_cannot_express(messages: list[Message], says: str) -> None:
    with pytest.raises(RenderError, match=says):
        render_text(messages, thinking=True)


# -- against the encoder that vLLM ships ----------------------------------------------------------


@cache
def _vllm_encoder() -> Any:
    spec = importlib.util.find_spec("vllm")  # finds the package without importing it (seconds)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(next(iter(spec.submodule_search_locations))) / "tokenizers" / "deepseek_v32_encoding.py"
    module_spec = importlib.util.spec_from_file_location("deepseek_v32_encoding", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def _openai(message: Message) -> dict[str, Any]:
    raw: dict[str, Any] = {"role": message.role, "content": message.content, "reasoning": message.reasoning}
    raw["tools"] = [{"type": "function", "function": tool} for tool in message.tools]
    raw["tool_calls"] = [
        {"function": {"name": c.name, "arguments": json.dumps(dict(c.arguments))}} for c in message.tool_calls
    ]
    return raw


@st.composite
def dialogues(draw: st.DrawFn, thinking: bool) -> list[Message]:
    messages = [Message("system", draw(plain), tools=draw(st.sampled_from([(), (SEARCH,), (SEARCH, SEARCH)])))]
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(plain)))
        for _ in range(draw(st.integers(0, 3))):
            said = draw(assistants(thinking=thinking))
            if not said.tool_calls:
                break
            messages += [said, *(Message("tool", draw(plain)) for _ in said.tool_calls)]
        # the encoder compared with wants reasoning that is not empty where there is no call
        messages.append(Message("assistant", draw(plain), reasoning="because" if thinking else None))
    return messages[: draw(st.integers(2, len(messages)))]


@pytest.mark.parametrize("thinking", [True, False])
@settings(max_examples=60)
@given(st.data())
def test_equals_vllms_encoder_apart_from_the_blank_lines(thinking: bool, data: st.DataObject) -> None:
    messages = data.draw(dialogues(thinking))
    theirs = _vllm_encoder()
    expected = theirs.encode_messages([_openai(m) for m in messages], "thinking" if thinking else "chat")
    for tools in {json.dumps(m.tools): m.tools for m in messages if m.tools}.values():
        expected = expected.replace(theirs.render_tools(list(tools)), dsml.tools_block(tools))
    assert render_text(messages, thinking=thinking) == expected


def test_developer_turn_equals_vllms_encoder() -> None:
    messages = [Message("developer", "find it", tools=(SEARCH,))]
    theirs = _vllm_encoder()
    expected = theirs.encode_messages([_openai(m) for m in messages], "thinking")
    expected = expected.replace(theirs.render_tools([SEARCH]), dsml.tools_block([SEARCH]))
    assert render_text(messages, thinking=True) == expected


def test_the_seven_blank_lines_are_the_only_difference() -> None:
    theirs = _vllm_encoder().TOOLS_SYSTEM_TEMPLATE
    ours = dsml.TOOLS_TEMPLATE
    assert len(ours) - len(theirs) == 7
    assert [line for line in ours.splitlines() if line] == [line for line in theirs.splitlines() if line]


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("thinking", [True, False])
@settings(max_examples=150)
@given(st.data())
def test_parse_inverts_render(thinking: bool, data: st.DataObject) -> None:
    message = data.draw(assistants(thinking))
    before = [Message("user", "question")]
    prompt = renderer().render(before, thinking=thinking)
    whole = renderer().render([*before, message], thinking=thinking)
    assert whole[: len(prompt)] == prompt
    assert renderer().parse(whole[len(prompt) :], thinking=thinking, ended=True) == message


@settings(max_examples=150)
@given(
    st.lists(
        st.sampled_from([*CALL_TEXT.splitlines(keepends=True), "</think>", "<think>", "\n\n", "text", dsml.DSML, ">"]),
        max_size=10,
    ).map("".join),
    st.booleans(),
)
def test_any_text_parses_to_a_message_that_renders_again(text: str, thinking: bool) -> None:
    message = parse_text(text, thinking=thinking)
    before = [Message("user", "question")]
    if message.parse_error is None:
        assert parse_text(_sampled(message, thinking), thinking=thinking) == message
    render_text([*before, message, Message("user", "next")], thinking=thinking)


def _sampled(message: Message, thinking: bool) -> str:
    prompt = render_text([Message("user", "q")], thinking=thinking)
    return render_text([Message("user", "q"), message], thinking=thinking)[len(prompt) : -len(E)]
