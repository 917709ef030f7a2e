"""What vLLM is kept from loading with it. With vLLM itself: every test that starts an engine."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from rl.policy.importing import without_module
from rl.rollout.vllm_loading import compiling_at_first_call

ABSENT = "torch._inductor.not_loaded_by_anything"


def test_it_cannot_be_imported_in_the_block_alone() -> None:
    with without_module(ABSENT), pytest.raises(ImportError, match=ABSENT):
        importlib.import_module(ABSENT)
    assert ABSENT not in sys.modules


def test_what_is_loaded_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ModuleType(ABSENT)
    monkeypatch.setitem(sys.modules, ABSENT, there)
    with without_module(ABSENT):
        assert importlib.import_module(ABSENT) is there
    assert sys.modules[ABSENT] is there


def test_functions_are_compiled_once_when_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, dict[str, Any]]] = []

    def compile_now(model: Any, **how: Any) -> Callable[[int], int]:
        given.append((model, how))
        return lambda x: 10 * int(model(x))

    def more(x: int) -> int:
        return x + 1

    monkeypatch.setattr(torch, "compile", compile_now)
    with compiling_at_first_call():
        later, decorated = torch.compile(more), torch.compile(dynamic=True)(more)
        module = torch.compile(torch.nn.Identity())
        assert [how for _, how in given] == [{}]  # a module at once
        assert callable(module)
    assert torch.compile is compile_now
    given.clear()
    assert (later.__name__, later(1), later(2), decorated(1)) == ("more", 20, 30, 20)
    assert given == [(more, {}), (more, {"dynamic": True})]
