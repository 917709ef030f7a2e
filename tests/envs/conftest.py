"""Markers of the environments' tests."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "bridges: drives another library's environments; needs that library installed")
