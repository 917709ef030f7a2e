"""The conversion says what is missing; the model itself is 90 MB and comes with `make smollm2`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from rl.commands import smollm2


def test_a_missing_package_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if all(find_spec(name) for name in smollm2.PACKAGES):
        pytest.skip("the packages are installed here")
    assert smollm2.main([str(tmp_path / "out")]) == 2
    assert "is not there: run `make smollm2`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert smollm2.main([]) == 2
