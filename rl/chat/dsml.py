"""DSML, the markup in which DeepSeek-V3.2 calls tools: the TOOLS block, writing calls, parsing calls.

Grammar (recipe: section 4.4; source: the official ``encoding_dsv32.py`` of DeepSeek-V3.2)::

    calls     = "<｜DSML｜function_calls>\\n" invoke ("\\n" invoke)* "\\n</｜DSML｜function_calls>"
    invoke    = '<｜DSML｜invoke name="F">\\n' parameter ("\\n" parameter)* "\\n</｜DSML｜invoke>"
    parameter = '<｜DSML｜parameter name="K" string="true|false">' value "</｜DSML｜parameter>"

A string value is raw between its tags; any other value is JSON. The parser lets the white space
between tags vary (no meaning depends on it) and is strict about everything else; what it raises is
written for the policy, which reads it as an observation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from envs.types import ToolCall
from rl.chat.strict_json import read_json

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
USER = "<｜User｜>"
ASSISTANT = "<｜Assistant｜>"
THINK = "<think>"
END_THINK = "</think>"
DSML = "｜DSML｜"

CALLS_OPEN, CALLS_CLOSE = f"<{DSML}function_calls>", f"</{DSML}function_calls>"
INVOKE_OPEN, INVOKE_CLOSE = f'<{DSML}invoke name="', f"</{DSML}invoke>"
PARAMETER_OPEN, PARAMETER_CLOSE = f'<{DSML}parameter name="', f"</{DSML}parameter>"

# The official text, blank lines included (some serving engines lost seven of them). 1,210 characters,
# sha256 0cc91e644b79c4f576bbe968ed31a1bc8f825c0a4617730109df29d07f75f79a: a policy is trained and served
# with one text, so a test pins the hash.
TOOLS_TEMPLATE = """\
## Tools

You have access to a set of tools you can use to answer the user's question.
You can invoke functions by writing a "<{dsml_token}function_calls>" block like the following as part of your reply to the user:
<{dsml_token}function_calls>
<{dsml_token}invoke name="$FUNCTION_NAME">
<{dsml_token}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{dsml_token}parameter>
...
</{dsml_token}invoke>
<{dsml_token}invoke name="$FUNCTION_NAME2">
...
</{dsml_token}invoke>
</{dsml_token}function_calls>

String and scalar parameters should be specified as is without any escaping or quotes, while lists and objects should use JSON format. The "string" attribute should be set to "true" for string type parameters and "false" for other types (numbers, booleans, arrays, objects).

If the thinking_mode is enabled, then after function results you should strongly consider outputting a thinking block. Here is an example:

<{dsml_token}function_calls>
...
</{dsml_token}function_calls>

<function_results>
...
</function_results>

{thinking_start_token}...thinking about results{thinking_end_token}

Here are the functions available in JSONSchema format:
<functions>
{tool_schemas}
</functions>
"""  # noqa: E501 (the text is fixed, long lines and all)


class DSMLError(ValueError):
    """The text is not a valid block of calls; the message says what is wrong and how to fix it."""


def json_text(value: Any) -> str:
    """JSON as V3.2 writes it: ``", "`` and ``": "`` between items, characters beyond ASCII as they are."""
    return json.dumps(value, ensure_ascii=False)


def tools_block(tools: Sequence[Mapping[str, Any]]) -> str:
    """The TOOLS block for function schemas ``{name, description, parameters}``, one JSON line for each."""
    return TOOLS_TEMPLATE.format(
        dsml_token=DSML,
        thinking_start_token=THINK,
        thinking_end_token=END_THINK,
        tool_schemas="\n".join(json_text(dict(tool)) for tool in tools),
    )


def response_format_block(schema: Mapping[str, Any]) -> str:
    """The text that asks for answers by a JSON schema, as the official encoder writes it."""
    return (
        f"## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n{json_text(dict(schema))}"
    )


def write_calls(calls: Sequence[ToolCall]) -> str:
    """The block of calls, without the blank line that sets it off from the text before it."""
    return "\n".join([CALLS_OPEN, *(_write_invoke(call) for call in calls), CALLS_CLOSE])


def _write_invoke(call: ToolCall) -> str:
    parameters = []
    for key, value in call.arguments.items():
        is_string = isinstance(value, str)
        text = value if is_string else json_text(value)
        parameters.append(f'{PARAMETER_OPEN}{key}" string="{"true" if is_string else "false"}">{text}{PARAMETER_CLOSE}')
    # no parameters: an empty line between the tags, as the official encoder leaves it
    return f'{INVOKE_OPEN}{call.name}">\n' + "\n".join(parameters) + f"\n{INVOKE_CLOSE}"


# Opening tags. The bare forms exist to tell "wrong attribute" from "no such tag".
_INVOKE = re.compile(re.escape(f"<{DSML}invoke") + r"(?P<attributes>[^>\n]*)>")
_PARAMETER = re.compile(re.escape(f"<{DSML}parameter") + r"(?P<attributes>[^>\n]*)>")
_NAME = re.compile(r' name="([^"]+)"')
_NAME_STRING = re.compile(r' name="([^"]+)" string="(true|false)"')
_SPACE = re.compile(r"\s*")


def parse_calls(block: str) -> tuple[ToolCall, ...]:
    """Parse text that starts with ``<｜DSML｜function_calls>`` and must end with its closing tag.

    Raises DSMLError on anything else: unclosed or unknown tags, text between tags, a missing or
    wrong ``string`` attribute, a repeated parameter, a non-string value that is not JSON.
    """
    if not block.startswith(CALLS_OPEN):
        raise DSMLError(f"a tool call must begin with {CALLS_OPEN}")
    calls: list[ToolCall] = []
    at = _skip_space(block, len(CALLS_OPEN))
    while not block.startswith(CALLS_CLOSE, at):
        opened = _INVOKE.match(block, at)
        if opened is None:
            raise DSMLError(_unexpected(block, at, f'{INVOKE_OPEN}TOOL">', CALLS_OPEN, CALLS_CLOSE))
        call, at = _parse_invoke(block, opened)
        calls.append(call)
        at = _skip_space(block, at)
    if not calls:
        raise DSMLError(f"the {CALLS_OPEN} block holds no call")
    rest = block[at + len(CALLS_CLOSE) :].strip()
    if rest:
        raise DSMLError(f"text after {CALLS_CLOSE}: '{_short(rest)}'; end the message there")
    return tuple(calls)


def _parse_invoke(block: str, opened: re.Match[str]) -> tuple[ToolCall, int]:
    named = _NAME.fullmatch(opened["attributes"])
    if named is None:
        raise DSMLError(f"bad call tag '{opened[0]}'; write {INVOKE_OPEN}TOOL\">")
    name = named[1]
    arguments: dict[str, Any] = {}
    at = _skip_space(block, opened.end())
    while not block.startswith(INVOKE_CLOSE, at):
        parameter = _PARAMETER.match(block, at)
        if parameter is None:
            expected = f'{PARAMETER_OPEN}NAME" string="true">'
            raise DSMLError(_unexpected(block, at, expected, f"call of '{name}'", INVOKE_CLOSE))
        attributes = _NAME_STRING.fullmatch(parameter["attributes"])
        if attributes is None:
            raise DSMLError(
                f'bad parameter tag \'{parameter[0]}\'; write {PARAMETER_OPEN}NAME" string="true"> or string="false"'
            )
        key, is_string = attributes[1], attributes[2] == "true"
        if key in arguments:
            raise DSMLError(f"parameter '{key}' of '{name}' is given twice")
        end = block.find(PARAMETER_CLOSE, parameter.end())
        # another tag inside the value means that this parameter's own closing tag is missing
        if end < 0 or DSML in block[parameter.end() : end]:
            raise DSMLError(f"parameter '{key}' is not closed by {PARAMETER_CLOSE}")
        value = block[parameter.end() : end]
        arguments[key] = value if is_string else _json_value(key, value)
        at = _skip_space(block, end + len(PARAMETER_CLOSE))
    return ToolCall(name=name, arguments=arguments), at + len(INVOKE_CLOSE)


def _json_value(key: str, text: str) -> Any:
    try:
        return read_json(text)
    except ValueError as error:
        raise DSMLError(
            f"parameter '{key}' has string=\"false\" but '{_short(text)}' is not JSON; write string=\"true\" for text"
        ) from error


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _unexpected(block: str, at: int, expected: str, inside: str, closing: str) -> str:
    rest = block[at:].strip()
    if not rest or rest.startswith((CALLS_CLOSE, CALLS_OPEN, f"<{DSML}invoke")):
        return f"{inside} is not closed by {closing}"
    return f"'{_short(rest)}' inside {inside}; expected {expected} or {closing}"


def _short(text: str, limit: int = 40) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
