"""Any Hugging Face chat template as a renderer.

The template of the model's own tokenizer writes the text. What a template does is found out at the start by rendering
with it and encoding what it writes, not by the model's name:

- what ends an assistant's turn (``turn_end``): the stop tokens, next to EOS and those of generation_config.json;
- which roles and orders it takes (``template_rules``), and what it writes before an answer;
- in which markup it writes tool calls (``tool_markup``). A template that knows no tools (SmolLM2) gets them described
  in the system message, calls in Hermes' markup, and reads results as user turns; so does one that refuses tools or
  their results. One with a markup that is not known is refused as soon as a dialogue has tools;
- where it shows reasoning, of which turns, and whether it opens it;
- whether a text that is encoded in pieces becomes the tokens of the whole.

What cannot be served is a ValueError with the tokenizer's name, when the renderer is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError

from envs.types import Message
from rl.chat import tool_markup
from rl.chat.chat_template import ChatTemplate, open_tokenizer, stop_tokens
from rl.chat.renderer import RenderError, Retention, begun, cut_off_error
from rl.chat.split import Split, split_response
from rl.chat.template_messages import (
    END_THINK,
    THINK,
    as_dicts,
    tools_as_prompt,
    with_reasoning,
    with_response_format,
)
from rl.chat.template_rules import TemplateRules
from rl.chat.thinking_block import without_last_empty_thinking
from rl.chat.tool_markup import HERMES, PROBE, PROBE_SCHEMA, ToolMarkup, tools_in
from rl.chat.turn_end import TurnEnd

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ToolStyle = Literal["template", "prompt", "unreadable"]
_ANSWER = "probe_answer"
_HI, _SAID, _AND = Message("user", "Hi there."), Message("assistant", "It  is so"), Message("user", "And then?")


class HFTemplateRenderer:
    """Renders with ``tokenizer.apply_chat_template``.

    ``stop_token_ids`` default to the tokenizer's EOS. The tokens with which the template ends an assistant's turn
    come first in any case: base models with ChatML have another EOS. Raises ValueError for a template without
    such a token, and for one that refuses an ordinary dialogue.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_token_ids: Sequence[int] | None = None,
        retention: Retention = "cycle",
    ) -> None:
        self.tokenizer = tokenizer
        self._template = template = ChatTemplate(tokenizer)
        self.retention = retention
        try:
            self._rules = TemplateRules.find(template.apply)
            self._answer_end = self._turn_end()
        except TemplateError as error:
            raise ValueError(
                f"the chat template of {template.name} refuses a dialogue of user and assistant: {error}; "
                "use another chat_template.jinja"
            ) from error
        self._call_end = self._answer_end
        self.tool_style, self._markup = self._tools()
        ends = (self._answer_end.token, self._call_end.token)
        self.stop_token_ids = tuple(dict.fromkeys([*ends, *(stop_token_ids or (template.eos,))]))
        self._opens: dict[bool, bool] = {}
        self._leads: dict[bool, str] = {}
        if template.bos and template.apply([{"role": "user", "content": "Hi"}]).startswith(template.bos * 2):
            raise ValueError(
                f"the chat template of {template.name} writes {template.bos} twice at the beginning; take one out of "
                "chat_template.jinja"
            )
        self._check_pieces()
        if retention == "keep" and self._keeps is None:
            raise ValueError(
                f"rollout.retention=keep: the chat template of {template.name} takes the reasoning before "
                "the last user message out; use cycle or drop, or a template that keeps it"
            )

    @classmethod
    def load(cls, directory: str | Path, retention: Retention = "cycle") -> HFTemplateRenderer:
        """Tokenizer and template of a model's directory; stop tokens also from generation_config.json.

        Raises ValueError for a tokenizer or a template that does not do, OSError where there is none.
        """
        tokenizer = open_tokenizer(Path(directory))
        return cls(tokenizer, stop_tokens(Path(directory), tokenizer), retention)

    def describe(self) -> str:
        """What was found out, in one line."""
        rules, said = self._rules, [f"stops at {' '.join(self._template.decode([i]) for i in self.stop_token_ids)}"]
        how = {"template": f"in the template ({self._markup.name})", "prompt": "described in the system message"}
        said.append(f"tools {how.get(self.tool_style, 'in a markup that is not known')}")
        said += [] if rules.system else ["no system role"]
        said += [] if rules.user_runs else ["roles alternate"]
        if self._opens_reasoning(True):
            said.append("opens the thinking")
        return f"chat template: {', '.join(said)}"

    # -- messages to tokens ------------------------------------------------------------------

    def render(self, messages: Sequence[Message], *, thinking: bool, add_bos: bool = True) -> list[int]:
        """The whole prompt, with the template's opening of the assistant's turn where it is due."""
        if (unfinished := begun(messages, thinking=thinking)) is not None:
            before = self.render(messages[:-1], thinking=thinking, add_bos=add_bos)
            return before + self.prefix_tokens(unfinished, thinking=thinking)
        text = self._text(messages, thinking)
        return self._template.encode(text if add_bos else text.removeprefix(self._template.bos))

    def prefix_tokens(self, message: Message, *, thinking: bool) -> list[int]:
        """What was given of an answer, behind what the template writes before one."""
        message = self._template.control.mark(message)
        if message.reasoning is None:
            return self._encode_inside(self._lead(thinking) + message.content)
        opened = "" if self._opens_reasoning(thinking) else f"{THINK}\n"
        closed = f"\n{END_THINK}\n\n{message.content}" if message.content else ""
        return self._encode_inside(opened + message.reasoning + closed)

    def render_after(
        self, messages_before: Sequence[Message], new: Sequence[Message], *, thinking: bool, stop: int | None = None
    ) -> list[int] | None:
        """Tokens for ``new`` after the stop token of ``messages_before``; None if the text before changes.

        Many templates write a newline after the stop token: it was not sampled, so it comes here. Some write an
        empty thinking block in the newest message only (Qwen3): that it goes is no change of the text before. What
        stands in the stream stays there, with or without the block.
        """
        last = messages_before[-1]
        if self.retention == "drop" and thinking and last.role == "assistant" and last.reasoning:
            return None  # also where the template never showed it: the token stream has it
        before = self._text(messages_before, thinking)
        after = self._text([*messages_before, *new], thinking)
        end: TurnEnd | None = None
        if last.role == "assistant":
            end = self._end_of(last)
            before = self._until_stop(before, end)
        if not after.startswith(before) and last.role == "assistant" and not last.reasoning:
            before = without_last_empty_thinking(before)
        if not after.startswith(before):
            return None
        if end is None or end.own:
            return self._template.encode(after[len(before) :], behind=end.token if end else None)
        added = self._template.encode(after[len(before) :])
        return added[1:] if stop is not None and added[:1] == [stop] else added

    def end_thinking_tokens(self, tokens: list[int], *, thinking: bool) -> list[int]:
        """``</think>`` on a line of its own, if the response opened its reasoning (or the template did) and not closed
        it."""
        text = self._template.decode(tokens)
        inside = (THINK in text or self._opens_reasoning(thinking)) and END_THINK not in text
        return self._encode_inside(f"\n{END_THINK}\n\n") if inside else []

    def close_tokens(self, tokens: list[int], *, thinking: bool) -> list[int]:
        """The end of the reasoning if it is still open, then the token that ends a turn, where it has one."""
        end = [self._answer_end.token] if self._answer_end.own else []
        return [*self.end_thinking_tokens(tokens, thinking=thinking), *end]

    def stop_of(self, message: Message) -> int:
        """The token with which a policy ends this message."""
        return self._end_of(message).token

    # -- tokens to a message -----------------------------------------------------------------

    def parse(
        self, tokens: list[int], *, thinking: bool, ended: bool, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Message:
        """The assistant message in sampled ``tokens``; what is malformed sets ``parse_error``."""
        body = tokens[:-1] if tokens and tokens[-1] in self.stop_token_ids else tokens
        text = self._template.decode(body)
        error = None if ended else cut_off_error(len(tokens))
        reasoning: str | None = None
        if text.lstrip().startswith(THINK) or self._opens_reasoning(thinking):
            head, closed, tail = text.partition(END_THINK)
            reasoning, text = head.lstrip().removeprefix(THINK).strip("\n"), tail.lstrip("\n")
            if not closed:
                error = error or f"the reasoning is not closed by {END_THINK}"
        elif (lead := self._lead(thinking)).isspace():
            text = text.removeprefix(lead)
        if error is None:
            try:
                content, calls = self._markup.read(text, tools)
                return Message("assistant", content, reasoning=reasoning, tool_calls=calls)
            except ValueError as wrong:
                error = str(wrong)
        return Message("assistant", text, reasoning=reasoning, parse_error=error)

    def split(self, tokens: list[int], *, thinking: bool, sampled: Sequence[bool] | None = None) -> Split:
        """Tokens by kind (see Renderer); whether there is thinking is read as ``parse`` reads it."""
        text = self._template.decode(tokens)
        thinks = self._opens_reasoning(thinking) or text.lstrip().startswith(THINK)
        return split_response(
            tokens,
            self._template.decode,
            stop_token_ids=self.stop_token_ids,
            end_think=END_THINK if thinks else None,
            calls=self._markup.marks(text.partition(END_THINK)[2] if thinks else text),
            sampled=sampled,
        )

    # -- what the template does --------------------------------------------------------------

    def _turn_end(self) -> TurnEnd:
        """How it ends an answer."""
        user, said = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": _ANSWER}
        last = self._template.apply([user, said]).rpartition(_ANSWER)[2]
        followed = self._template.apply([user, said, user]).rpartition(_ANSWER)[2]
        end = self._end_from(last, followed)
        if end is None:
            raise ValueError(
                f"the chat template of {self._template.name} ends an assistant's turn with {(last or followed)[:40]!r},"
                " which does not begin with a token of its own (like <|im_end|>), so sampling would not stop there; "
                "let the template write such a token of the tokenizer behind the content"
            )
        return end

    def _end_from(self, last: str, followed: str) -> TurnEnd | None:
        template = self._template
        return TurnEnd.find(last, followed, template.encode, template.decode, template.known)

    def _tools(self) -> tuple[ToolStyle, ToolMarkup]:
        """How it deals with tools (see the module's docstring), and the markup of calls; sets how a call ends."""
        found = "probe_result"

        def shown(*messages: Message) -> str:
            """The text of a dialogue with the tool; empty if the template refuses it."""
            try:
                return self._template.apply(self._rules.fit(as_dicts(messages)), tools=[PROBE_SCHEMA])
            except TemplateError:
                return ""

        begin = (Message("user", "Hi"), Message("assistant", tool_calls=(PROBE,)))
        prompt, said = shown(begin[0]), shown(*begin)
        answered = shown(*begin, Message("tool", found))
        if PROBE.name not in prompt or (said and found not in answered):
            return "prompt", HERMES
        special = set(self._template.special) | {self._template.tokenizer.eos_token, self._answer_end.text}
        ends = special - tool_markup.MARKS
        last, followed = tool_markup.find(prompt, said, ends), tool_markup.find(prompt, answered, ends)
        if last is None or followed is None or last[0] is not followed[0]:
            return "unreadable", HERMES
        end = self._end_from(last[1], followed[1])
        if end is None:
            return "unreadable", HERMES
        self._call_end = end
        return "template", last[0]

    def _check_pieces(self) -> None:
        """Raise ValueError where what is encoded behind a stop token is not what it is in the whole text."""
        before, stop = [_HI, _SAID], self._answer_end.token
        whole = self.render([*before, _AND], thinking=False)
        try:
            added = self.render_after(before, [_AND], thinking=False, stop=stop)
        except ValueError:
            added = whole
        if added and whole[-len(added) - 1 :] != [stop, *added]:
            raise ValueError(
                f"the tokenizer of {self._template.name} encodes a message behind {self._answer_end.text} otherwise "
                "than inside a whole dialogue, so that a rollout would not have the tokens of its text; use a "
                "tokenizer.json whose added tokens cut the text"
            )

    def _opens_reasoning(self, thinking: bool) -> bool:
        """Whether the template itself writes the opening ``<think>``, so that sampling starts inside."""
        if thinking not in self._opens:
            text = self._template.apply([{"role": "user", "content": "Hi"}], thinking=thinking)
            self._opens[thinking] = text.rstrip().endswith(THINK)
        return self._opens[thinking]

    def _lead(self, thinking: bool) -> str:
        """What the template writes between the opening of the assistant's turn and an answer without reasoning: mostly
        nothing, a space (Mistral), an empty thinking block (Qwen3)."""
        if self._opens_reasoning(thinking):
            return f"\n{END_THINK}\n\n"
        if thinking not in self._leads:
            turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _ANSWER}]
            opened = self._template.apply(turns[:1], thinking=thinking)
            written = self._template.apply(turns, thinking=thinking).rpartition(_ANSWER)[0]
            self._leads[thinking] = written.removeprefix(opened) if written.startswith(opened) else ""
        return self._leads[thinking]

    @cached_property
    def _keeps(self) -> Literal["reasoning", "content"] | None:
        """In which field this template shows the reasoning of turns before the last user message, if in any."""
        probe = "probe_reasoning"
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant"}, {"role": "user", "content": "And?"}]
        ways: tuple[tuple[Literal["reasoning", "content"], dict[str, str]], ...] = (
            ("reasoning", {"content": "Yes.", "reasoning_content": probe}),
            ("content", {"content": with_reasoning(probe, "Yes.")}),
        )
        for way, fields in ways:
            turns[1] = {"role": "assistant", **fields}
            if probe in self._template.apply(turns, thinking=True):
                return way
        return None

    # -- the text of a dialogue --------------------------------------------------------------

    def _retained(self, messages: Sequence[Message], thinking: bool) -> Sequence[Message]:
        """The messages with as much reasoning as the template is to see."""
        if not thinking or self.retention == "cycle":
            return messages
        if self.retention == "drop":
            return [replace(m, reasoning=None) for m in messages[:-1]] + [messages[-1]]
        if self._keeps == "reasoning":
            return messages
        return [
            replace(m, content=with_reasoning(m.reasoning, m.content), reasoning=None)
            if m.role == "assistant" and m.reasoning
            else m
            for m in messages
        ]

    def _text(self, messages: Sequence[Message], thinking: bool) -> str:
        """The dialogue as the template writes it, marked (``rl.chat.control_text``)."""
        begun(messages, thinking=thinking)
        marked = [with_response_format(self._template.control.mark(message)) for message in messages]
        messages = self._retained(marked, thinking)
        tools: Sequence[Mapping[str, Any]] = tools_in(messages)
        uses_tools = bool(tools) or any(m.role == "tool" or m.tool_calls for m in messages)
        for index, message in enumerate(messages):
            if message.role == "developer":
                raise RenderError(f"messages[{index}]: chat templates know no developer role; use system")
        if uses_tools and self.tool_style == "unreadable":
            raise RenderError(
                f"the chat template of {self._template.name} writes tool calls in a markup that is not known here "
                f"(known: {', '.join(markup.name for markup in tool_markup.MARKUPS)}); use a model with one of them, "
                "or an environment without tools"
            )
        if uses_tools and self.tool_style == "prompt":
            raw, tools = tools_as_prompt(messages), ()
        else:
            raw = as_dicts(messages)
        try:
            generate = messages[-1].role != "assistant"
            return self._template.apply(self._rules.fit(raw), tools=tools, generate=generate, thinking=thinking)
        except TemplateError as error:
            raise RenderError(
                f"the chat template of {self._template.name} refuses the messages "
                f"{', '.join(m.role for m in messages)}: {error}"
            ) from error

    def _end_of(self, message: Message) -> TurnEnd:
        return self._call_end if message.tool_calls and self.tool_style == "template" else self._answer_end

    def _until_stop(self, text: str, end: TurnEnd) -> str:
        """``text``, which ends with an assistant's turn, without what stands behind the token that ends it."""
        if (cut := end.cut(text)) is not None:
            return cut
        head, found, _ = text.rpartition(end.text)
        return head + found if found else text

    def _encode_inside(self, text: str) -> list[int]:
        """Tokens of what stands inside an assistant's turn, behind the template's opening of it."""
        return self._template.encode(text, behind=self._answer_end.token) if text else []
