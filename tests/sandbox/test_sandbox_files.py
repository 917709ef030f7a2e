"""Files and host folders that a caller puts into a sandbox."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.sandbox import Limits, Sandbox
from envs.sandbox.files import mount_points, pack


def test_files_are_there_writable_and_the_working_folder():
    code = (
        "import os\n"
        "print(os.getcwd(), open('src/pkg/a.py').read(), open('b', 'rb').read(), os.path.getsize('empty'))\n"
        "open('src/pkg/a.py', 'a').write('# more'); os.remove('b'); os.rename('empty', 'src/moved')\n"
        "open('src/new', 'w').write('n'); os.chmod('src', 0o700)\n"
        "print(sorted(os.listdir('.')), sorted(os.listdir('src')))\n"
    )
    files = {"src/pkg/a.py": b"x = 1", "b": bytes([0, 255]), "empty": b""}
    result = Sandbox().run_python(code, files=files)
    assert result.stderr == ""
    assert result.stdout == "/tmp/work x = 1 b'\\x00\\xff' 0\n['src'] ['moved', 'new', 'pkg']\n"
    assert files["src/pkg/a.py"] == b"x = 1"


def test_a_repository_of_many_files_needs_no_descriptor_for_each():
    files = {f"pkg/m{n}.py": b"v = %d" % n for n in range(1500)}
    code = "import sys\nsys.path.insert(0, '/tmp/work')\nfrom pkg import m7, m1499\nprint(m7.v + m1499.v)"
    assert Sandbox().run_python(code, files=files).stdout == "1506\n"


def test_a_file_may_be_larger_than_what_the_program_may_write():
    result = Sandbox(Limits(file_mb=1)).run_python(
        "print(len(open('big', 'rb').read()))", files={"big": bytes(3 << 20)}
    )
    assert result.stdout == f"{3 << 20}\n"


def test_mounts_are_read_only(tmp_path: Path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "module.py").write_text("value = 7")
    code = (
        "import os, sys\nsys.path.insert(0, '/mnt/lib')\nimport module\nprint(module.value, os.listdir('/mnt'))\n"
        "for name in ('/mnt/lib/module.py', '/mnt/lib/new', '/mnt/new'):\n"
        "    try: open(name, 'a').close(); print('open')\n"
        "    except OSError: print('closed')\n"
    )
    result = Sandbox().run_python(code, mounts={"lib": tmp_path / "lib"})
    assert result.stdout == "7 ['lib']\nclosed\nclosed\nclosed\n", result
    assert [p.name for p in (tmp_path / "lib").iterdir()] == ["module.py"]


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../b", "a//b", "./a", "a/", "a\0b", "."])
def test_bad_paths_are_refused(name: str):
    with pytest.raises(ValueError, match="files: bad path"):
        Sandbox().run_python("", files={name: b""})


def test_a_file_below_a_file_is_refused():
    with pytest.raises(ValueError, match="lies below"):
        Sandbox().run_python("", files={"a": b"", "a/b": b""})


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a b", ".hidden", "-x"])
def test_bad_mount_names_are_refused(name: str, tmp_path: Path):
    with pytest.raises(ValueError, match="mounts: bad name"):
        mount_points({name: tmp_path})


def test_what_is_not_there_and_what_does_not_fit_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"mounts\['x'\].*does not exist"):
        mount_points({"x": tmp_path / "none"})
    with pytest.raises(ValueError, match=r"Limits\.disk_mb=1; raise it"):
        Sandbox(Limits(disk_mb=1)).run_python("", files={"a": bytes(1 << 20)})


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user's sandbox runs as that user")
def test_a_mount_that_the_sandboxs_user_cannot_read_is_named(tmp_path: Path):
    (tmp_path / "closed").mkdir(mode=0o700)
    with pytest.raises(ValueError, match=r"mounts\['x'\].*cannot be read by other users"):
        mount_points({"x": tmp_path / "closed"})


@given(st.dictionaries(st.text("ab/.é", min_size=1, max_size=6), st.binary(max_size=5), max_size=4))
def test_an_archive_holds_what_was_packed_whatever_the_order(files: dict[str, bytes]):
    try:
        archive = pack(files, disk_mb=16)
    except ValueError:
        return
    assert archive == pack(dict(reversed(list(files.items()))), disk_mb=16)
    unpacked, at = {}, 0
    while at < len(archive):
        fields = []
        for _ in range(2):
            size = int.from_bytes(archive[at : at + 4], "little")
            fields.append(archive[at + 4 : at + 4 + size])
            at += 4 + size
        unpacked[fields[0].decode()] = fields[1]
    assert unpacked == files
