"""The garbage collector pauses while libraries are loaded, and only then."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from rl.policy.importing import without_collector


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    frozen = gc.get_freeze_count()
    yield
    gc.enable()
    if not frozen:
        gc.unfreeze()


def test_it_pauses_and_goes_on_after_an_error_too() -> None:
    on: list[bool] = []

    def load() -> None:
        with without_collector():
            on.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        load()
    assert on == [False]
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_one_that_was_off_stays_off() -> None:
    gc.disable()
    with without_collector():
        assert not gc.isenabled()
    assert not gc.isenabled()
