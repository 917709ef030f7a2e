"""What a run folder keeps of URLs with secrets in them."""

from __future__ import annotations

import pytest

from envs.url_secrets import cleaned, without_credentials


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("base_url: https://me:s3cret@host:8000/v1", "base_url: https://***@host:8000/v1"),
        ("url: 'redis://:pw@host'", "url: 'redis://***@host'"),
        ("url: https://host/v1?api_key=abc&x=1", "url: https://host/v1?api_key=***&x=1"),
        ("url: https://me:p@ss@host/a@b", "url: https://***@host/a@b"),
        ("url: https://host?to=a@b", "url: https://host?to=a@b"),
        ("url: https://host/rows?sv=1&sig=a%2Fb&se=2", "url: https://host/rows?sv=1&sig=***&se=2"),
        ("url: https://host/rows?X-Amz-Credential=id&pwd=x", "url: https://host/rows?X-Amz-Credential=***&pwd=***"),
        ("url: https://host/rows?design=1&path=2", "url: https://host/rows?design=1&path=2"),
        ("url: https://host/a@b?x=1\nkey: value", "url: https://host/a@b?x=1\nkey: value"),
    ],
)
def test_credentials_in_urls_are_not_kept(given: str, kept: str) -> None:
    assert without_credentials(given) == kept


def test_every_text_of_a_value_is_cleaned() -> None:
    given = {"env": {"base_url": "http://me:pw@host/"}, "list": ["s3://b?token=t", 3, None], "n": 1.5}
    assert cleaned(given) == {"env": {"base_url": "http://***@host/"}, "list": ["s3://b?token=***", 3, None], "n": 1.5}
