"""Messages as data sets hold them become ours, and what has no form here is named."""

from __future__ import annotations

from typing import Any

import pytest

from envs.message_forms import checked_prompt, message_of, messages_of
from envs.types import Message, ToolCall

COUNT = ToolCall("count", {"item": "apples"})
SCHEMA = {"name": "count", "parameters": {}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"role": "user", "content": "a", "name": "sam", "refusal": None}, Message("user", "a")),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}, Message("user", "a\nb")),
        ({"role": "user", "content": "a", "tool_calls": None, "tools": None}, Message("user", "a")),
        ({"role": "assistant", "content": None}, Message("assistant")),
        ({"role": "assistant", "reasoning_content": "r"}, Message("assistant", reasoning="r")),
        ({"role": "assistant", "reasoning": "r", "reasoning_content": None}, Message("assistant", reasoning="r")),
        (
            {"role": "assistant", "tool_calls": [{"name": "count", "arguments": {"item": "apples"}}]},
            Message("assistant", tool_calls=(COUNT,)),
        ),
        (
            {"role": "assistant", "tool_calls": [{"name": "count", "arguments": None, "function": None}]},
            Message("assistant", tool_calls=(ToolCall("count"),)),
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "count", "arguments": '{"item": "apples"}'}}]},
            Message("assistant", tool_calls=(COUNT,)),
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "count", "arguments": {"item": "apples"}}}]},
            Message("assistant", tool_calls=(COUNT,)),
        ),
        (
            {"role": "system", "tools": [{"type": "function", "function": SCHEMA}, SCHEMA]},
            Message("system", tools=(SCHEMA, SCHEMA)),
        ),
        (
            {
                "role": "system",
                "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
            },
            Message("system", response_format=SCHEMA),
        ),
        (
            {"role": "system", "response_format": {"type": "object"}},
            Message("system", response_format={"type": "object"}),
        ),
        ({"role": "assistant", "content": "The", "prefix": True}, Message("assistant", "The", prefix=True)),
        ({"role": "user", "content": "a", "prefix": None, "response_format": None}, Message("user", "a")),
    ],
)
def test_forms(raw: dict[str, Any], message: Message) -> None:
    assert message_of(raw) == message
    assert message_of(message.to_json()) == message


def test_a_prompt_may_begin_the_answer() -> None:
    begun = [Message("user", "u"), Message("assistant", "The", prefix=True)]
    assert checked_prompt(begun) == tuple(begun)


def test_a_response_format_without_a_schema() -> None:
    with pytest.raises(ValueError, match=r"has the response_format .*json_object.*, wanted a JSON schema"):
        message_of({"role": "system", "response_format": {"type": "json_object"}})


def test_a_null_argument_stays_unless_a_table_had_to_write_it() -> None:
    call = {"name": "f", "arguments": {"a": None, "b": {"c": None, "d": 1}, "e": [{"g": None}]}}
    raw = {"role": "assistant", "tool_calls": [call]}
    assert message_of(raw).tool_calls[0].arguments == call["arguments"]
    assert message_of(raw, absent_nulls=True).tool_calls[0].arguments == {"b": {"d": 1}, "e": [{}]}


def test_results_are_put_in_the_order_of_their_calls() -> None:
    calls = [{"id": name, "function": {"name": name, "arguments": ""}} for name in "ab"]
    results = [{"role": "tool", "tool_call_id": name, "content": name.upper()} for name in "ba"]
    messages = messages_of([user("?"), {"role": "assistant", "tool_calls": calls}, *results, user("and?")])
    assert [m.content for m in messages] == ["?", "", "A", "B", "and?"]
    assert checked_prompt(messages) == messages


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ("Hello", "message 0 is 'Hello', wanted an object"),
        ({"from": "human", "value": "a"}, r"message 0 has no role \(it has from, value\)"),
        ({"role": "human", "content": "a"}, "the role 'human', known are system, user"),
        ({"role": "user", "content": 7}, "content=7, wanted a list"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "a part of type 'image_url'"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "function_call"),
        ({"role": "assistant", "tool_calls": {"name": "f"}}, "tool_calls=.*wanted a list"),
        ({"role": "assistant", "tool_calls": [{"arguments": {}}]}, "wanted name and arguments"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}, "arguments of 'f' are no JSON"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}, "not an object"),
        ({"role": "system", "tools": ["f"]}, "wanted a function schema"),
        ({"role": "tool", "tool_call_id": "x", "content": ""}, "call 'x' that was not made"),
    ],
)
def test_what_has_no_form(raw: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        messages_of([raw])


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([], "no message"),
        ([Message("system", "s")], "ends with a message of the role 'system'"),
        ([Message("user", "u"), Message("assistant", "a")], "ends with a message of the role 'assistant'"),
        ([Message("tool", "t")], "message 0, the result of a call that was not made"),
        ([Message("assistant", tool_calls=(COUNT,)), Message("user", "u")], r"1 tool call\(s\) without a result"),
        ([Message("assistant", tool_calls=(COUNT, COUNT)), Message("tool", "u")], r"1 tool call\(s\) without"),
        ([Message("assistant", tool_calls=(COUNT,)), Message("tool"), Message("tool")], "message 2"),
    ],
)
def test_what_no_policy_can_answer(messages: list[Message], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        checked_prompt(messages)
