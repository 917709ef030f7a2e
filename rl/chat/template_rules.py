"""Rules of chat templates, found by rendering with them, and dialogues made to keep them.

Many templates raise an error of their own: no system role (Gemma), no two user messages in a row (Llama 2,
Mistral), no message without text, no user message behind a tool's result (Mistral), no result without a call. What the
rule asks for is done here: the system text goes before the first user message, user messages in a row become one with
an empty line between them, an empty content is rendered as a mark that is taken out of the text again, a user's text
behind a result goes to the end of it, and a result without a call (the answer to a call that could not be read) becomes
a user message. A rule of another kind is an error that names the template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

EMPTY = "\ue000empty\ue000"  # stands for an empty content; of the private use area, so no text has it
Raw = dict[str, Any]  # a message in the form that chat templates read


@dataclass(frozen=True)
class TemplateRules:
    """What a template takes: a system message, user messages in a row, messages without text; and, where it takes
    tools' results at all, user messages behind them and results without a call."""

    system: bool
    user_runs: bool
    empty: bool
    user_after_tool: bool = True
    stray_results: bool = True

    @classmethod
    def find(cls, apply: Callable[[Sequence[Raw]], str]) -> TemplateRules:
        """Try each rule. ``apply`` renders a dialogue; a TemplateError of it is a refusal.

        Raises that TemplateError when an ordinary dialogue, made to keep the rules, is refused too.
        """

        def shows(*turns: Mapping[str, Any]) -> bool:
            try:
                text = apply([dict(turn) for turn in turns])
            except TemplateError:
                return False
            return all(turn["content"] in text for turn in turns)

        user, other, said = _raw("user", "Hi"), _raw("user", "And?"), _raw("assistant", "probe_answer")
        calls = [{"type": "function", "id": "0" * 9, "function": {"name": "probe", "arguments": {"x": 1}}}]
        called = _raw("assistant", "") | {"tool_calls": calls}
        result = _raw("tool", "probe_result") | {"tool_call_id": "0" * 9, "name": "probe"}
        results = shows(user, called, result)
        rules = cls(
            system=shows(_raw("system", "probe_system"), user),
            user_runs=shows(user, other),
            empty=shows(user, _raw("assistant", ""), other),
            user_after_tool=not results or shows(user, called, result, other),
            stray_results=not results or shows(user, said, result, said, result),
        )
        roles = ("system", "user", "assistant", "user", "assistant")
        apply(rules.fit([_raw(role, f"probe_{i}") for i, role in enumerate(roles)]))
        return rules

    def fit(self, messages: Sequence[Raw]) -> list[Raw]:
        """The dialogue as this template takes it; the ``messages`` themselves are not changed."""
        result: list[Raw] = []
        pending = ""  # system text on its way to the first user message
        called = True  # whether the last assistant message has calls, so that results can follow
        for position, message in enumerate(messages):
            if position == 0 and message["role"] == "system" and not self.system:
                pending = message["content"]
                continue
            if position == 1 and pending:
                if message["role"] == "user":
                    message = message | {"content": _joined(pending, message["content"])}
                else:
                    result.append(_raw("user", pending))
            if message["role"] == "assistant":
                called = bool(message.get("tool_calls"))
            if message["role"] == "tool" and not called and not self.stray_results:
                message = _raw("user", message["content"])
            before = result[-1]["role"] if result else ""
            joins = {"user": not self.user_runs, "tool": not self.user_after_tool}.get(before, False)
            if message["role"] == "user" and joins:
                result[-1] = result[-1] | {"content": _joined(result[-1]["content"], message["content"])}
            else:
                result.append(message)
        return result if self.empty else [m if m["content"] else m | {"content": EMPTY} for m in result]


def _raw(role: str, content: str) -> Raw:
    return {"role": role, "content": content}


def _joined(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)
