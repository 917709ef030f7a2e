"""What a run folder keeps of URLs with secrets in them."""

from __future__ import annotations

import pytest

from rl.tracking.rundir import without_credentials


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("base_url: https://me:s3cret@host:8000/v1", "base_url: https://***@host:8000/v1"),
        ("url: 'redis://:pw@host'", "url: 'redis://***@host'"),
        ("url: https://host/v1?api_key=abc&x=1", "url: https://host/v1?api_key=***&x=1"),
        ("url: https://host/a@b?x=1\nkey: value", "url: https://host/a@b?x=1\nkey: value"),
    ],
)
def test_credentials_in_urls_are_not_kept(given: str, kept: str) -> None:
    assert without_credentials(given) == kept
