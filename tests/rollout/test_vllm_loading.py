"""What ``import vllm`` is kept from loading. With vLLM itself: every test that starts an engine."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

from rl.rollout import vllm_loading
from rl.rollout.vllm_loading import _without_compiler

ABSENT = "torch._inductor.not_loaded_by_anything"


def test_it_cannot_be_imported_in_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_loading, "COMPILER", ABSENT)
    with _without_compiler(), pytest.raises(ImportError, match=ABSENT):
        importlib.import_module(ABSENT)
    assert ABSENT not in sys.modules


def test_what_is_loaded_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_loading, "COMPILER", ABSENT)
    there = ModuleType(ABSENT)
    monkeypatch.setitem(sys.modules, ABSENT, there)
    with _without_compiler():
        assert importlib.import_module(ABSENT) is there
    assert sys.modules[ABSENT] is there
