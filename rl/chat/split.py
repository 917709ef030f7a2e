"""A response's tokens by what they are for: thinking, tool calls, answer.

    sampled   t₁ … t_i </think> | text | <calls> … </calls> | text <end>
    counted   thinking            answer  tool                answer

Counted on the sampled tokens themselves: nothing is encoded again, so the three always add up to their number. Where
markup is several tokens (or shares one with adjacent text) its borders are found by decoding pieces of the stream;
a token on a border belongs to the markup. An end token is part of the answer, also where nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

_PIECE = 512  # tokens that are decoded at once while a mark is looked for


@dataclass(frozen=True)
class Split:
    """Tokens of one response by kind."""

    thinking: int = 0
    tool: int = 0
    answer: int = 0


def split_response(
    tokens: Sequence[int],
    decode: Callable[[list[int]], str],
    *,
    stop_token_ids: Sequence[int],
    end_think: str | None,
    calls: tuple[str, str | None] | None,
    sampled: Sequence[bool] | None = None,
) -> Split:
    """Split what was sampled for one assistant message.

    Args:
        tokens: the response, the stop token included when it ended by itself.
        decode: text of a piece of them, special tokens kept.
        end_think: the mark that ends the thinking in which the response begins; None when it begins in the answer.
            Without the mark everything before the end token is thinking.
        calls: opening and closing markup of tool calls (closing None: there is none); a block that is not closed
            reaches to the end. None: the response has no calls.
        sampled: which of the tokens the policy sampled (None: all); the others (an end of thinking that was forced
            on it) divide the response, but are not counted.
    """
    ids = [int(t) for t in tokens]
    body = ids[:-1] if ids and ids[-1] in stop_token_ids else ids
    mask = [True] * len(ids) if sampled is None else [bool(s) for s in sampled]
    at = 0
    if end_think is not None:
        found = _find(end_think, body, decode)
        at = len(body) if found is None else found[1]
    thinking = sum(mask[:at])
    tool = 0
    while calls is not None and (opened := _find(calls[0], body[at:], decode)) is not None:
        start, inside = at + opened[0], at + opened[1]
        closed = None if calls[1] is None else _find(calls[1], body[inside:], decode)
        at = len(body) if closed is None else inside + closed[1]
        tool += sum(mask[start:at])
    return Split(thinking, tool, sum(mask) - thinking - tool)


@lru_cache(maxsize=1 << 17)
def _text(decode: Callable[[list[int]], str], token: int) -> str:
    """The text of one token by itself."""
    return decode([token])


def _find(mark: str, ids: list[int], decode: Callable[[list[int]], str]) -> tuple[int, int] | None:
    """(start, end) of the tokens that hold the first occurrence of ``mark``; None when the text has none.

    ``mark`` is in the text of ids[:end] and of ids[start:end], and in that of no shorter piece. Pieces that overlap by
    more tokens than the mark can have (one per byte) are decoded in turn, so that a long response is decoded once;
    inside the first that holds it both borders are found by halving, because a longer piece keeps what a shorter holds.
    """
    alone = next((i for i, token in enumerate(ids) if mark in _text(decode, token)), None)
    if alone is not None and (alone == 0 or mark not in decode(ids[:alone])):
        return alone, alone + 1
    overlap = len(mark.encode())
    for first in range(0, max(len(ids) - overlap, 1), _PIECE):
        piece = ids[first : first + _PIECE + overlap]
        if mark not in decode(piece):
            continue
        low, high = 0, len(piece)  # piece[:low] does not hold the mark, piece[:high] does
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if mark in decode(piece[:middle]) else (middle, high)
        end = high
        low, high = 0, end  # piece[low:end] holds the mark, piece[high:end] does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if mark in decode(piece[middle:end]) else (low, middle)
        return first + low, first + end
    return None
