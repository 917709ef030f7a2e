"""Files of a git repository at a commit, and what a patch makes of them. The repository is only read.

    folder = find_repository(Path("repos"), "pallets/flask")     # repos/pallets__flask, pallets/flask or flask
    files = files_at(folder, "7ee9ceb7…")                         # {"src/flask/app.py": b"…"}
    patched(files, patch)                                         # {"src/flask/app.py": b"…"}: what it changes

``git`` reads objects alone: no working tree is touched, no hook runs, nothing is fetched, and the configuration of the
user and the system is left out. Symbolic links within the repository become copies; submodules are left out.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from envs.foreign.examined import RefusedError, StoppedError

_GIT_S = 120.0  # of one call
_LINK, _MODULE = b"120000", b"160000"
_TOUCHED = re.compile(r"(?m)^(?:--- |\+\+\+ |rename from |rename to |copy from |copy to )(.+?)\t?\r?$")
_HEADER = re.compile(r"(?m)^diff --git a/(.+) b/(.+?)\r?$")
_COMMIT = re.compile(r"[0-9a-fA-F]{7,64}")


def find_repository(repos: Path, repo: str) -> Path:
    """The folder of ``owner/name`` below ``repos``. Raises RefusedError that says where it was looked for."""
    owner, _, name = repo.rpartition("/")
    steps = repo.split("/")
    if not name or any(step in ("", ".", "..") for step in steps) or "\0" in repo or len(steps) > 2:
        raise RefusedError(f"repo: is {repo!r:.80}, wanted owner/name")
    known = [f"{owner}__{name}", repo, name] if owner else [name]
    for one in known:
        for folder in (repos / one, repos / f"{one}.git"):
            if (folder / ".git").exists() or (folder / "HEAD").is_file():
                return folder
    raise RefusedError(f"repo {repo}: no git repository in {repos} ({', '.join(dict.fromkeys(known))}); clone it there")


@lru_cache(maxsize=4)
def files_at(folder: Path, commit: str) -> Mapping[str, bytes]:
    """Content by path. Raises RefusedError for what names no commit, StoppedError when the commit is not there."""
    if not _COMMIT.fullmatch(commit):
        raise RefusedError(f"base_commit: is {commit!r:.80}, wanted the hexadecimal name of a commit")
    listed = _git(folder, "ls-tree", "-r", "-z", "--full-tree", commit)
    if listed.returncode:
        raise StoppedError(f"base_commit {commit}: not in {folder.name} ({_said(listed)}); git fetch it there")
    entries = []
    for line in listed.stdout.split(b"\0")[:-1]:
        about, _, name = line.partition(b"\t")
        mode, _, digest = about.split(b" ")
        if mode != _MODULE:
            entries.append((os.fsdecode(name), digest, mode))
    read = _git(folder, "cat-file", "--batch", put=b"".join(digest + b"\n" for _, digest, _ in entries))
    if read.returncode:
        raise StoppedError(f"base_commit {commit}: its files cannot be read ({_said(read)})")
    files: dict[str, bytes] = {}
    links: dict[str, bytes] = {}
    at = 0
    for path, digest, mode in entries:
        end = read.stdout.index(b"\n", at)
        header = read.stdout[at:end].split(b" ")
        if len(header) != 3:
            raise StoppedError(f"base_commit {commit}: {path} is not in {folder.name} ({digest.decode()} is missing)")
        size = int(header[2])
        content = read.stdout[end + 1 : end + 1 + size]
        at = end + size + 2
        (links if mode == _LINK else files)[path] = content
    for path, to in links.items():
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), os.fsdecode(to)))
        if target in files:
            files[path] = files[target]
    return files


def patched(files: Mapping[str, bytes], patch: str, reverse: bool = False) -> dict[str, bytes | None]:
    """What ``patch`` changes: content by path, None for a file that it deletes. Raises RefusedError when it does not
    apply to ``files``."""
    if not patch.strip():
        return {}
    text = patch if patch.endswith("\n") else f"{patch}\n"
    names = {name for pair in _HEADER.findall(text) for name in pair}
    names |= {re.sub(r"^[ab]/", "", name) for name in _TOUCHED.findall(text)}
    with tempfile.TemporaryDirectory(prefix="patch-") as scratch:
        top = Path(scratch).resolve()
        for name in names & files.keys():
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(files[name])
        options = ["--whitespace=nowarn", *(["-R"] if reverse else [])]
        done = _git(top, "apply", *options, "-", put=text.encode("utf-8", "surrogateescape"))
        if done.returncode:
            raise RefusedError(f"it does not apply to base_commit ({_said(done)})")
        after = {}
        for path in sorted(top.rglob("*")):
            if path.is_file() and not path.is_symlink():
                after[path.relative_to(top).as_posix()] = path.read_bytes()
    changed: dict[str, bytes | None] = {name: now for name, now in after.items() if files.get(name) != now}
    return changed | {name: None for name in names & files.keys() if name not in after}


def laid(files: Mapping[str, bytes], over: Mapping[str, bytes | None]) -> dict[str, bytes]:
    """The files with others in their place; None takes one away."""
    found = {path: content for path, content in files.items() if path not in over}
    return found | {path: content for path, content in over.items() if content is not None}


def _git(folder: Path, *words: str, put: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    settings = ("safe.directory=*", "protocol.allow=never", "core.fsmonitor=false", "core.hooksPath=/dev/null")
    command = ["git", *(word for setting in settings for word in ("-c", setting)), "-C", str(folder), *words]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath), "LANG": "C", "GIT_CONFIG_NOSYSTEM": "1", "GIT_NO_LAZY_FETCH": "1",
        "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0", "GIT_NO_REPLACE_OBJECTS": "1",
        # outside a repository git patches plain files; the folder of temporary files may lie in one
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
    }  # fmt: skip
    try:
        return subprocess.run(command, input=put, capture_output=True, env=environment, timeout=_GIT_S)
    except FileNotFoundError as error:
        raise ValueError("git is not installed: apt-get install git") from error
    except subprocess.TimeoutExpired as error:
        raise StoppedError(f"git {words[0]} in {folder} did not end in {_GIT_S:g} s") from error


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[0].removeprefix("fatal: ").removeprefix("error: ")[:200] if lines else "git says nothing"
