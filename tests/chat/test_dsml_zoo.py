"""Malformed calls: each names what is wrong."""

from __future__ import annotations

import pytest
from chat_fixtures import renderer

from rl.chat.v32 import parse_text

GOOD = (
    "\n\n<｜DSML｜function_calls>\n"
    '<｜DSML｜invoke name="search">\n'
    '<｜DSML｜parameter name="query" string="true">tin</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n"
    "</｜DSML｜function_calls>"
)
INVOKE, PARAMETER = '<｜DSML｜invoke name="search">', '<｜DSML｜parameter name="query" string="true">'
PARAMETER_END = "</｜DSML｜parameter>"

ZOO = [
    (GOOD.replace(PARAMETER_END, ""), "parameter 'query' is not closed by </｜DSML｜parameter>"),
    (
        GOOD.replace("tin" + PARAMETER_END, "tin\n" + PARAMETER + "x" + PARAMETER_END),
        "parameter 'query' is not closed by </｜DSML｜parameter>",
    ),
    (GOOD.replace("</｜DSML｜invoke>\n", ""), "call of 'search' is not closed by </｜DSML｜invoke>"),
    (
        GOOD.replace("</｜DSML｜function_calls>", ""),
        "<｜DSML｜function_calls> is not closed by </｜DSML｜function_calls>",
    ),
    (
        GOOD.replace("<｜DSML｜function_calls>\n", ""),
        "a call must stand between <｜DSML｜function_calls> and </｜DSML｜function_calls>",
    ),
    (GOOD + "\nand so on", "text after </｜DSML｜function_calls>: 'and so on'"),
    (GOOD + GOOD, "text after </｜DSML｜function_calls>"),
    (GOOD.replace(INVOKE, INVOKE + "\nfirst I look"), "'first I look"),
    (GOOD.replace(INVOKE, "<｜DSML｜invoke>"), "bad call tag '<｜DSML｜invoke>'"),
    (GOOD.replace(INVOKE, '<｜DSML｜invoke name="">'), "bad call tag"),
    (GOOD.replace(' string="true"', ""), "bad parameter tag"),
    (GOOD.replace('string="true"', 'string="yes"'), "bad parameter tag"),
    (
        GOOD.replace('string="true"', 'string="false"'),
        "parameter 'query' has string=\"false\" but 'tin' is not JSON",
    ),
    (GOOD.replace('string="true">tin', 'string="false">NaN'), "is not JSON"),
    (GOOD.replace('string="true">tin', 'string="false">' + "[" * 100_000), "is not JSON"),
    (
        GOOD.replace(PARAMETER_END, PARAMETER_END + PARAMETER + "x" + PARAMETER_END),
        "parameter 'query' of 'search' is given twice",
    ),
    ("\n\n<｜DSML｜function_calls>\n</｜DSML｜function_calls>", "holds no call"),
    ("tin<｜User｜>" + GOOD, "<｜User｜> stands inside the answer"),
    ("I think <think> again", "<think> stands inside the answer"),
]


@pytest.mark.parametrize(("text", "says"), ZOO)
@pytest.mark.parametrize("thinking", [True, False])
def test_malformed(text: str, says: str, thinking: bool) -> None:
    message = parse_text(f"why</think>{text}" if thinking else text, thinking=thinking)
    assert message.parse_error is not None
    assert says in message.parse_error
    assert not message.tool_calls
    assert message.content == text  # kept raw, to be shown and rendered again
    assert message.reasoning == ("why" if thinking else None)
    assert len(message.parse_error) < 250  # it costs the policy context


def test_the_good_one_parses() -> None:
    assert parse_text(GOOD, thinking=False).tool_calls[0].arguments == {"query": "tin"}


def test_white_space_between_tags_has_no_meaning() -> None:
    loose = GOOD.replace("\n<", "  \n\n <")
    assert parse_text(loose, thinking=False).tool_calls == parse_text(GOOD, thinking=False).tool_calls


def test_reasoning_that_is_not_closed() -> None:
    message = parse_text("I wonder", thinking=True)
    assert message.parse_error == "the reasoning is not closed by </think>"
    message = parse_text(f"I wonder{GOOD}", thinking=True)
    assert message.parse_error == "the tool call stands inside the reasoning; write </think> before it"


def test_a_cut_off_response_says_how_long_it_was() -> None:
    tokens = renderer().tokenizer.encode("why</think>because of")
    message = renderer().parse(tokens, thinking=True, ended=False)
    assert message.parse_error == f"the response was cut off after {len(tokens)} tokens; be shorter"
    assert (message.reasoning, message.content) == ("why", "because of")


@pytest.mark.parametrize("word", ["<｜User｜>", "</think>", "<｜end▁of▁sentence｜>"])
def test_control_words_in_arguments_are_text(word: str) -> None:
    """The official parser looks for them in content and reasoning only."""
    message = parse_text(GOOD.replace("tin", f"tin{word}"), thinking=False)
    assert message.parse_error is None
    assert message.tool_calls[0].arguments == {"query": f"tin{word}"}
