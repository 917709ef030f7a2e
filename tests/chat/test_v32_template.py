"""The Jinja form of V3.2's chat format writes what the renderer writes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from chat_fixtures import SEARCH, assistants, plain, tiny_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from envs.types import Message
from rl.chat.template_messages import as_dicts
from rl.chat.v32 import render_text


@cache
def transformers_tokenizer() -> Any:
    import tempfile

    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tiny_tokenizer().save(folder)
        assert (Path(folder) / "chat_template.jinja").is_file()
        return AutoTokenizer.from_pretrained(folder)


@st.composite
def dialogues(draw: st.DrawFn, thinking: bool) -> list[Message]:
    tools = (SEARCH, {**SEARCH, "name": "other"}) if draw(st.booleans()) else ()
    found = [Message("system", draw(plain), tools=tools)] if tools or draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        found.append(Message("user", draw(plain)))
        for _ in range(draw(st.integers(0, 2))):
            answer = draw(assistants(thinking))
            found.append(answer)
            found += [Message("tool", draw(plain)) for _ in answer.tool_calls]
            if not answer.tool_calls:
                break
    return found


@pytest.mark.parametrize("thinking", [True, False])
@given(data=st.data())
def test_it_is_the_renderer_s_text(thinking: bool, data: st.DataObject) -> None:
    messages = data.draw(dialogues(thinking))
    tools = [{"type": "function", "function": tool} for message in messages for tool in message.tools]
    text = transformers_tokenizer().apply_chat_template(
        as_dicts(messages), tools=tools or None, thinking=thinking, tokenize=False
    )
    assert text == render_text(messages, thinking=thinking)


def test_an_unknown_role_is_refused() -> None:
    from jinja2.exceptions import TemplateError

    with pytest.raises(TemplateError, match="unknown role developer"):
        transformers_tokenizer().apply_chat_template([{"role": "developer", "content": "x"}], tokenize=False)
