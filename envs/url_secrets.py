"""User names, passwords and keys in URLs, which stand as ``***`` in whatever is kept: runs, caches, certificates.

Those are shown, copied and put into repositories. ``rl.run.credentials`` gives a run that resumes its own back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LEFT_OUT = "***"
# up to the last @ before the path: a password may hold one
_USER_INFO = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{0,20}://)[^/?#\s'\"]{1,500}@")
_QUERY_KEY = re.compile(
    r"([?&#][\w.-]{0,40}(?:key|token|secret|passw(?:or)?d|pass|pwd|sig(?:nature)?|credentials?|auth)=)[^&\s'\"#]{1,2000}",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """``text`` with ``***`` for what URLs in it keep secret."""
    return _QUERY_KEY.sub(rf"\1{LEFT_OUT}", _USER_INFO.sub(rf"\1{LEFT_OUT}@", text))


def cleaned(value: Any) -> Any:
    """A JSON value in whose texts URLs have no secrets."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, Mapping):
        return {key: cleaned(inner) for key, inner in value.items()}
    return [cleaned(inner) for inner in value] if isinstance(value, list | tuple) else value
