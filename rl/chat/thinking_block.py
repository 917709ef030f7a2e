"""An empty thinking block at the end of a text, which some templates write into the newest message only (Qwen3)."""

from __future__ import annotations

import re

from rl.chat.dsml import END_THINK, THINK

_EMPTY_THINKING = re.compile(rf"{THINK}\s*{END_THINK}\s*")


def without_last_empty_thinking(text: str) -> str:
    """``text`` without the last thinking block, if that is empty."""
    begin = text.rfind(THINK)
    block = _EMPTY_THINKING.match(text, begin) if begin >= 0 else None
    return text if block is None else text[:begin] + text[block.end() :]
