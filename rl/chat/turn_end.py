"""What ends an assistant's turn in a chat template, found by looking at what it writes behind a message.

Two kinds. Most templates write a token of the message's own (``<|im_end|>``, ``<|eot_id|>``, ``</s>``). Some write
none: the next message begins with its role's token, and that is where sampling stops (GLM-4.5: ``<|user|>`` behind an
answer, ``<|observation|>`` behind a call). Then the token that was sampled is the beginning of the next message, and is
not written twice. An answer and a tool call can end differently (Llama: ``<|eom_id|>``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class TurnEnd:
    """The end of one kind of message.

    ``token`` and ``text``: what sampling stops at; ``own``: it belongs to the message, else to the next one;
    ``behind``: all that the template writes behind such a message while it is the last one.
    """

    token: int
    text: str
    own: bool
    behind: str

    @classmethod
    def find(
        cls,
        last: str,
        followed: str,
        encode: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
        known: Collection[int],
    ) -> TurnEnd | None:
        """From the text behind a message that is the ``last`` one, and behind one that another follows (``followed``).

        ``known``: the tokens that stand for themselves wherever they are written. None when there is no such end.
        """

        def first(text: str) -> int | None:
            ids = encode(text.lstrip())[:1]
            begins = bool(ids) and ids[0] in known and text.lstrip().startswith(decode(ids))
            return ids[0] if begins else None

        own, following = first(last), first(followed)
        if following is None:
            return None
        return cls(following, decode([following]), own == following, last)

    def cut(self, text: str) -> str | None:
        """``text``, which ends with such a message, up to the end of the message; None when it ends otherwise."""
        if not self.own:
            return text.removesuffix(self.behind)
        if not text.endswith(self.behind):
            return None
        return text[: len(text) - len(self.behind) + self.behind.index(self.text) + len(self.text)]
