"""What a policy writes as JSON is read as the standard has it, or refused in words."""

from __future__ import annotations

import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.types import Message, ToolCall
from rl.chat.control_text import ControlText
from rl.chat.dsml import DSMLError, _json_value
from rl.chat.hermes import parse_hermes
from rl.chat.strict_json import read_json, read_json_prefix

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(VALUES, st.booleans())
def test_what_json_writes_is_read_back(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert read_json(f" {text}\n") == value
    found, end = read_json_prefix(text + " </tool_call>")
    assert found == value
    assert end == len(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"x": NaN}', "NaN is no JSON"),
        ('{"x": -Infinity}', "-Infinity is no JSON"),
        ('{"x": 1e999}', "the number 1e999 is too large"),
        ('{"x": 1, "x": 2}', "the key 'x' is given twice"),
        ('"\\ud83d"', "half a surrogate pair"),
        ('{"\\udc00": 1}', "half a surrogate pair"),
        ("[1] 2", "Extra data: ' 2'"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 101 + "]" * 101, "nested too deeply"),
        ('{"a":' * 60 + "[" * 41 + "]" * 41 + "}" * 60, "nested too deeply"),
        ("", "Expecting value"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        read_json(text)
    assert said in str(refused.value)


def test_what_is_read_can_be_rendered_stored_and_sent() -> None:
    """A policy that could write what nobody can follow would end its episodes, or its worker."""
    deepest = read_json("[" * 100 + "]" * 100)
    assert read_json("[" + ",".join(["[]"] * 500) + "]") == [[]] * 500  # many are not deep
    message = Message("assistant", tool_calls=(ToolCall("f", {"x": deepest}),))
    assert pickle.loads(pickle.dumps(message)) == message
    json.dumps(message.to_json())
    ControlText(["<a>"], lambda text: [1], lambda ids: "xy").mark(message)


def test_both_formats_read_strictly() -> None:
    assert read_json('"\\ud83d\\ude00"') == "😀"
    assert math.isclose(read_json("1e300"), 1e300)
    with pytest.raises(DSMLError, match="is not JSON"):
        _json_value("x", '"\\ud83d"')
    with pytest.raises(ValueError, match="half a surrogate pair"):
        parse_hermes('<tool_call>{"name": "f", "arguments": {"x": "\\udc00"}}</tool_call>')


@pytest.mark.parametrize("text", ["end with </tool_call> please", "<tool_call>", "<tool_call>{}</tool_call>"])
def test_a_string_may_hold_the_tags(text: str) -> None:
    call = ToolCall("write", {"text": text})
    written = f"<tool_call>\n{json.dumps({'name': call.name, 'arguments': call.arguments})}\n</tool_call>"
    assert parse_hermes(f"So:\n{written}\n{written}") == ("So:", (call, call))
