"""A cover stands in the place of a mounted file; only of a file that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from envs.sandbox import Sandbox


def test_a_cover_is_all_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("original")
    (tmp_path / "b.txt").write_text("beside")
    tmp_path.chmod(0o755)
    code = "print(open('/mnt/x/sub/a.txt').read(), open('/mnt/x/b.txt').read())\nopen('/mnt/x/sub/a.txt', 'w')"
    result = Sandbox().run_python(code, mounts={"x": tmp_path}, covers={"x/sub/a.txt": b"cover"})
    assert result.stdout == "cover beside\n"
    assert "Read-only" in result.stderr or "Permission denied" in result.stderr
    assert (tmp_path / "sub" / "a.txt").read_text() == "original"


@pytest.mark.parametrize("name", ["x/none.txt", "y/a.txt", "x/../x/a.txt", "x"])
def test_a_cover_needs_a_file_below_a_mount(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("original")
    with pytest.raises(ValueError, match="no file of a mounted folder"):
        Sandbox().run_python("", mounts={"x": tmp_path}, covers={name: b""})
