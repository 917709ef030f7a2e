"""Rules of chat templates, found by rendering with them, and dialogues made to keep them.

Many templates raise an error of their own: no system role (Gemma), no two user messages in a row (Llama 2,
Mistral), no message without text. What the rule asks for is done here: the system text goes before the first user
message, user messages in a row become one with an empty line between them, and an empty content is rendered
as a mark that is taken out of the text again. A rule of another kind is an error that names the template.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

EMPTY = "\ue000empty\ue000"  # stands for an empty content; of the private use area, so no text has it
Raw = dict[str, Any]  # a message in the form that chat templates read


@dataclass(frozen=True)
class TemplateRules:
    """What a template takes: a system message, user messages in a row, messages without text."""

    system: bool
    user_runs: bool
    empty: bool

    @classmethod
    def find(cls, apply: Callable[[Sequence[Raw]], str]) -> TemplateRules:
        """Try each rule. ``apply`` renders a dialogue; a TemplateError of it is a refusal.

        Raises that TemplateError when an ordinary dialogue, made to keep the rules, is refused too.
        """

        def shows(*turns: tuple[str, str]) -> bool:
            try:
                text = apply([_raw(*turn) for turn in turns])
            except TemplateError:
                return False
            return all(content in text for _, content in turns)

        rules = cls(
            system=shows(("system", "probe_system"), ("user", "Hi")),
            user_runs=shows(("user", "Hi"), ("user", "And?")),
            empty=shows(("user", "Hi"), ("assistant", ""), ("user", "And?")),
        )
        roles = ("system", "user", "assistant", "user", "assistant")
        apply(rules.fit([_raw(role, f"probe_{i}") for i, role in enumerate(roles)]))
        return rules

    def fit(self, messages: Sequence[Raw]) -> list[Raw]:
        """The dialogue as this template takes it; the ``messages`` themselves are not changed."""
        result: list[Raw] = []
        pending = ""  # system text on its way to the first user message
        for position, message in enumerate(messages):
            if position == 0 and message["role"] == "system" and not self.system:
                pending = message["content"]
                continue
            if position == 1 and pending:
                if message["role"] == "user":
                    message = message | {"content": _joined(pending, message["content"])}
                else:
                    result.append(_raw("user", pending))
            if not self.user_runs and result and message["role"] == result[-1]["role"] == "user":
                result[-1] = result[-1] | {"content": _joined(result[-1]["content"], message["content"])}
            else:
                result.append(message)
        return result if self.empty else [m if m["content"] else m | {"content": EMPTY} for m in result]


def _raw(role: str, content: str) -> Raw:
    return {"role": role, "content": content}


def _joined(*texts: str) -> str:
    return "\n\n".join(text for text in texts if text)
