"""Tool calls in the markup of Llama 3, Mistral and GLM-4.5: read strictly, mistakes in words for the policy."""

from __future__ import annotations

import pytest
from chat_families import renderer_of
from chat_fixtures import SEARCH

from envs.types import Message, ToolCall
from rl.chat.other_calls import read_glm, read_llama, read_mistral
from rl.chat.split import Split
from rl.chat.tool_markup import tools_in

TOOL = {
    "name": "f",
    "parameters": {
        "type": "object",
        "properties": {
            "s": {"type": "string"},
            "n": {"type": "integer"},
            "any": {},
            "both": {"type": ["string", "null"]},
        },
    },
}
TOOLS = [TOOL]
LLAMA = '{"name": "f", "parameters": {"s": "a"}}'
MISTRAL = '[TOOL_CALLS] [{"name": "f", "arguments": {"s": "a"}, "id": "abcdefghi"}, {"name": "f", "arguments": {}}]'
GLM = "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>12</arg_value>\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n"
GLM += "<arg_key>any</arg_key><arg_value>[1]</arg_value><arg_key>both</arg_key><arg_value>so</arg_value>\n</tool_call>"


def test_what_is_read() -> None:
    one = ToolCall("f", {"s": "a"})
    assert read_llama(LLAMA, TOOLS) == read_llama(f" <|python_tag|>{LLAMA}\n", TOOLS) == ("", (one,))
    assert read_llama(f'{{"type": "function", {LLAMA[1:]}', TOOLS) == ("", (one,))
    assert read_mistral(f"So.{MISTRAL}", TOOLS) == ("So.", (one, ToolCall("f", {})))
    assert read_glm(f"So.\n{GLM}", TOOLS) == ("So.", (ToolCall("f", {"s": "12", "n": 3, "any": [1], "both": "so"}),))
    assert read_glm("<tool_call>g</tool_call>\n<tool_call>g\n</tool_call>", TOOLS)[1] == (ToolCall("g"),) * 2


@pytest.mark.parametrize("text", ['{"metal": "tin"}', f"I call {LLAMA}", "tin", "{", ""])
def test_answers_that_are_no_call_in_llama_s_markup(text: str) -> None:
    assert read_llama(text, TOOLS) == (text, ())


def test_without_tools_json_is_an_answer() -> None:
    assert read_llama(LLAMA, []) == (LLAMA, ())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LLAMA[:-1], "the tool call is not JSON"),
        (LLAMA.replace('"a"', "NaN"), "NaN is no JSON"),
        (LLAMA.replace('"a"', "1e999"), "too large"),
        (LLAMA.replace('"s": "a"', '"s": "a", "s": "b"'), "the key 's' is given twice"),
        (f"{LLAMA}; {LLAMA}", "text after the tool call"),
        (LLAMA.replace('{"s": "a"}', "[]"), "the parameters of 'f' must be a JSON object"),
        ("<|python_tag|>f(1)", "the tool call is not JSON"),
        (f'{{"type": "code", {LLAMA[1:]}', 'must be "function"'),
        ('{"name": 3}', 'with "name" and "parameters"'),
    ],
)
def test_mistakes_in_llama_s_markup(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_llama(text, TOOLS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MISTRAL[:-1], "is not JSON"),
        (f"{MISTRAL} so", "Extra data: ' so'"),
        ("[TOOL_CALLS] []", "a JSON list of calls"),
        ('[TOOL_CALLS] {"name": "f", "arguments": {}}', "a JSON list of calls"),
        ("[TOOL_CALLS] [3]", "must be a JSON object"),
        (MISTRAL.replace('"a"', "Infinity"), "Infinity is no JSON"),
        (MISTRAL + MISTRAL, "Extra data"),
    ],
)
def test_mistakes_in_mistral_s_markup(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_mistral(text, TOOLS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GLM.removesuffix("</tool_call>"), "the call of 'f' is not closed"),
        ("<tool_call>f", "a tool call is not closed by </tool_call>"),
        (GLM.replace(">3<", ">three<"), "the value of 'n' must be JSON of the type integer"),
        (GLM.replace(">3<", ">NaN<"), "NaN is no JSON"),
        (GLM.replace(">n<", ">s<"), "the argument 's' of 'f' is given twice"),
        (GLM.replace("12</arg_value>", "12"), "the value of 's' is not closed by </arg_value>"),
        (GLM.replace("so</arg_value>", "so"), "the value of 'both' is not closed by </arg_value>"),
        (GLM.replace("f\n", "", 1), "must begin with the tool's name"),
        (GLM.replace("<arg_value>12", "12"), "stands in the call of 'f'"),
        (f"{GLM} so", "text after </tool_call>: 'so'"),
        ("so </tool_call>", "</tool_call> without <tool_call>"),
    ],
)
def test_mistakes_in_glm_s_markup(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_glm(text, TOOLS)


@pytest.mark.parametrize("name", ["qwen25", "llama31", "mistral", "glm45"])
def test_a_mistake_is_the_policy_s(name: str) -> None:
    """It sets parse_error, which the environment answers and scores; nothing raises."""
    chat = renderer_of(name)
    written = {"llama31": LLAMA, "mistral": MISTRAL, "glm45": GLM, "qwen25": '<tool_call>{"name": NaN}</tool_call>'}
    tokens = [*chat.tokenizer.encode(f"{written[name]} so", add_special_tokens=False), chat.stop_token_ids[0]]
    message = chat.parse(tokens, thinking=False, ended=True, tools=TOOLS)
    assert message.parse_error is not None
    assert message.tool_calls == ()


@pytest.mark.parametrize(("name", "tool"), [("llama31", len(LLAMA)), ("mistral", len(MISTRAL) - 11), ("glm45", None)])
def test_tokens_of_calls_are_counted(name: str, tool: int | None) -> None:
    chat = renderer_of(name)
    written = {"llama31": LLAMA, "mistral": MISTRAL, "glm45": f"So.{GLM}"}[name]
    tokens = [*chat.tokenizer.encode(written, add_special_tokens=False), chat.stop_token_ids[0]]
    split = chat.split(tokens, thinking=False)
    assert split == (Split(0, len(tokens) - 4, 4) if tool is None else Split(0, len(tokens) - 1, 1))
    answer = [*chat.tokenizer.encode("tin", add_special_tokens=False), chat.stop_token_ids[0]]
    assert chat.split(answer, thinking=False) == Split(0, 0, len(answer))


def test_schemas_of_a_dialogue() -> None:
    assert tools_in([Message("system", tools=(SEARCH,)), Message("user", "hi")]) == (SEARCH,)
