"""What the index says of a package's releases, and their archives: fetched through pip, kept in one folder.

    sources = Sources(folder)
    older, newer = sources.releases("toolz")[-2:]      Release(name="toolz", version="1.2.0", date="2026-10-…", …)
    sources.archive(newer)                             the sdist on disk, its SHA-256 compared

pip's own session does the asking, with the index, certificates and proxies that pip is configured with. ``pip
download`` would run a package's build to learn its metadata; here an archive is fetched and read, never built.
Every answer is kept: a folder that has them needs no network, and gives the same tasks on every machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from envs.code.repo_packages import cache_folder
from envs.types import InfrastructureError

LISTED = Path(__file__).with_name("release_packages.txt")
NEEDS = Path(__file__).with_name("release_needs.txt")
# Of a site: listed packages once more, where a task on one of them could read what was taken out. All that is needed of
# them is in the site itself.
COPIES = "setuptools/_vendor"
MAX_BYTES = 6_000_000  # of an archive; what is larger ships data, not code
_SIMPLE = "application/vnd.pypi.simple.v1+json"
_TIMEOUT_S = 60.0  # of the index between two bytes
_INSTALL_S = 900.0


class FetchError(InfrastructureError):
    """The index, or what it sent, is at fault: never the package."""


@dataclass(frozen=True)
class Release:
    """One release with an sdist. ``date``: when it was uploaded, as the index says (ISO, UTC)."""

    name: str
    version: str
    date: str
    file: str
    url: str
    sha256: str
    size: int


@lru_cache(maxsize=1)
def listed() -> Mapping[str, str]:
    """package -> licence, of ``release_packages.txt``."""
    rows = [line.split() for line in LISTED.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {name: licence for name, licence in rows}


@dataclass(frozen=True)
class Sources:
    """The folder of fetched releases: ``index/``, ``sdists/``, ``site-…/`` and, of ``release_base``, ``base/``."""

    folder: Path

    @staticmethod
    def at(folder: str | Path | None) -> Sources:
        """The one of a folder, by default below the cache's."""
        return Sources(Path(folder).absolute() if folder is not None else cache_folder().with_name("releases"))

    def releases(self, name: str, until: str, fetch: bool = True) -> list[Release]:
        """The final releases with an sdist up to a date, oldest first; asks the index once, whatever the date.

        Raises FetchError when the index does not answer, and when nothing is here and ``fetch`` is off.
        """
        path = self.folder / "index" / f"{name}.json"
        if not path.is_file():
            if not fetch:
                raise FetchError(f"nothing of {name} in {self.folder}: envs-build family=releases fetches it")
            with self._locked(path):
                if not path.is_file():
                    _write(path, json.dumps([asdict(r) for r in _ask(name)], indent=0).encode())
        found = [Release(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
        return [release for release in found if release.date[:10] <= until]

    def archive(self, release: Release, fetch: bool = True) -> Path:
        """The sdist on disk. Raises FetchError when it is not here and cannot be had, or is another file."""
        path = self.folder / "sdists" / release.file
        if not path.is_file():
            if not fetch:
                raise FetchError(
                    f"{release.file} is not in {self.folder}: copy the folder that the data set was built with, or "
                    "give it as sources=FOLDER"
                )
            with self._locked(path):
                if not path.is_file():
                    _write(path, _get(release))
        return path

    def site(self, fetch: bool = True) -> Path:
        """The folder of what tests import, installed from wheels alone (nothing of them runs)."""
        wanted = NEEDS.read_bytes()
        path = self.folder / f"site-{hashlib.sha256(wanted + repr(sys.version_info[:3]).encode()).hexdigest()[:12]}"
        if not path.is_dir():
            if not fetch:
                raise FetchError(f"{path} is missing: envs-build family=releases makes it")
            with self._locked(path):
                if not path.is_dir():
                    _install(path)
        copies = path / COPIES
        if copies.is_dir() and copies.resolve() == path.resolve() / COPIES:  # and not of a link's other end
            with self._locked(path):
                shutil.rmtree(copies, ignore_errors=True)
            if copies.is_dir():
                raise FetchError(f"{copies} holds copies of packages that tasks are about: remove it")
        return path

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """One process fetches, the others wait for it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@contextmanager
def _session() -> Iterator[tuple[Any, str]]:
    """pip's session and the address of its index."""
    try:
        from pip._internal.commands import create_command
    except ImportError as error:  # an environment made without pip
        raise FetchError("envs-build family=releases fetches through pip: python -m ensurepip") from error
    command = create_command("download")
    with command.main_context():
        options, _ = command.parse_args([])
        if options.no_index or not options.index_url:
            raise FetchError("pip is configured without an index: releases cannot be fetched here")
        yield command.get_default_session(options), str(options.index_url).rstrip("/")  # type: ignore[attr-defined]


def _ask(name: str) -> list[Release]:
    from packaging.version import InvalidVersion, Version

    with _session() as (session, index):
        page_of = re.sub(r"[-_.]+", "-", name).lower()
        address = f"{index}/{page_of}/"
        answer = _answered(session, address, {"Accept": _SIMPLE})
        if _SIMPLE not in answer.headers.get("Content-Type", ""):
            raise FetchError(
                f"{index} does not tell when files were uploaded (PEP 700): releases need an index that does"
            )
        page = answer.json()
    found: dict[Version, Release] = {}
    for file in page["files"]:
        stem = file["filename"].removesuffix(".tar.gz").removesuffix(".zip")
        digest, date = file.get("hashes", {}).get("sha256"), file.get("upload-time")
        if stem == file["filename"] or "/" in stem or file.get("yanked") or not digest or not date:
            continue
        try:
            version = Version(stem.rpartition("-")[2])
        except InvalidVersion:
            continue
        if version.is_prerelease or version.is_postrelease:
            continue
        size = int(file.get("size") or 0)
        url = urljoin(address, file["url"])  # which may be relative (PEP 691)
        found[version] = Release(name, stem.rpartition("-")[2], date, file["filename"], url, digest, size)
    return [found[version] for version in sorted(found)]


def _get(release: Release) -> bytes:
    if release.size > MAX_BYTES:
        raise FetchError(f"{release.file} has {release.size:,} bytes, more than {MAX_BYTES:,}")
    with _session() as (session, _):
        content = bytes(_answered(session, release.url, {"Accept-Encoding": "identity"}).content)
    if hashlib.sha256(content).hexdigest() != release.sha256:
        raise FetchError(f"{release.file}: the file is another than the index says (SHA-256)")
    return content


def _answered(session: Any, url: str, headers: dict[str, str]) -> Any:
    """The answer to a GET. Raises FetchError for none, and for one that is no 200."""
    try:
        answer = session.get(url, headers=headers, timeout=_TIMEOUT_S)
    except Exception as error:  # of pip's own copy of requests, whose classes are no interface
        raise FetchError(f"the index does not answer ({type(error).__name__}: {str(error)[:200]})") from error
    if answer.status_code != 200:
        raise FetchError(f"the index answers {answer.status_code} for {url.rpartition('/')[0].rpartition('/')[2]}")
    return answer


def _install(path: Path) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    words = ["install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(fresh)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, "-r", str(NEEDS)], capture_output=True, text=True, timeout=_INSTALL_S
    )
    if done.returncode:
        raise FetchError(f"pip could not install what tests need ({NEEDS.name}): {done.stderr.strip()[-400:]}")
    for place in (fresh, *fresh.rglob("*")):  # the sandbox reads as another user
        place.chmod(place.stat().st_mode | (0o555 if place.is_dir() else 0o444))
    fresh.rename(path)


def _write(path: Path, content: bytes) -> None:
    """Readers see the whole file or none."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(content)
    os.replace(fresh, path)
