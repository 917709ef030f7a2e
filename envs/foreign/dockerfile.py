"""A Dockerfile as far as it needs no Docker: its files, folder and environment, or the line that cannot be emulated.

    image = read_dockerfile(Path("environment/Dockerfile"))      # Image(folder="/app", files={"/app/a.csv": …}, …)

Emulated: FROM a plain python, ubuntu or debian image (its version is not: programs are the host's, Python is this
package's), WORKDIR, ENV, ARG, COPY and ADD of local files, RUN of mkdir, of apt-get for packages that the host has, and
of pip for distributions that are installed here. Everything else raises RefusedError with its line.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from envs.foreign.examined import RefusedError

_PLAIN = re.compile(
    r"(?:docker\.io/)?(?:library/)?(?:python|ubuntu|debian)(?::[\w.-]+)?(?:@sha256:\w+)?"
    r"|ghcr\.io/laude-institute/t-bench/(?:ubuntu|python|debian)-[\w.-]+(?::[\w.-]+)?"
)
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")
_IGNORED = ("LABEL", "MAINTAINER", "STOPSIGNAL")
_SHELLS = {"bash", "/bin/bash", "sh", "/bin/sh", "sleep", "infinity", "tail", "-f", "/dev/null", "-c", "-l", "-o",
           "pipefail", "python", "python3"}  # fmt: skip
# Where nothing can be written here: the host's programs, and what holds the sandbox together
_CLOSED = ("usr", "bin", "sbin", "lib", "lib64", "etc", "dev", "proc", "sys", "mnt", "python", "sandbox", "tmp")
_MAX_BYTES = 64 << 20
_PATH = "/usr/local/bin:/python/bin:/usr/bin:/bin:/usr/sbin:/sbin"  # of envs.sandbox, with the host's programs


@dataclass
class Image:
    """``files``: content and mode by absolute path; ``folders``: empty ones; ``packages``: distributions that are
    mounted; ``environment``: variables."""

    folder: str = "/"
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)


def read_dockerfile(path: Path) -> Image:
    """The image of a Dockerfile, whose folder is the build context. Raises RefusedError with the line."""
    if not path.is_file():
        raise RefusedError(f"there is no {path.name}")
    image, variables, begun = Image(), dict[str, str](), False
    for number, word, rest in _instructions(path.read_text(encoding="utf-8", errors="replace")):
        try:
            if word == "FROM":
                if begun:
                    raise RefusedError("a second FROM: an image made in several stages is not emulated")
                _from(rest)
                begun = True
            elif word != "ARG" and not begun:
                raise RefusedError("it stands before FROM")
            else:
                _take(word, rest, image, variables, path.parent)
        except RefusedError as error:
            shown = f"{word} {rest}" if len(rest) <= 100 else f"{word} {rest[:100]}…"
            raise RefusedError(f"{path.name}, line {number}: {error} ({shown})") from error
    if not begun:
        raise RefusedError(f"{path.name} has no FROM")
    return image


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, instruction, the rest of it) with continued lines joined."""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        number, line = at + 1, lines[at].strip()
        at += 1
        if not line or line.startswith("#"):
            continue
        while line.endswith("\\") and at < len(lines):
            more = lines[at].strip()
            at += 1
            if not more.startswith("#"):
                line = f"{line[:-1].rstrip()} {more}"
        word, _, rest = line.removesuffix("\\").strip().partition(" ")
        yield number, word.upper(), rest.strip()


def _from(rest: str) -> None:
    words = rest.split()
    if words and words[0].startswith("--platform="):
        if words[0] != "--platform=linux/amd64":
            raise RefusedError("another platform is not emulated")
        words = words[1:]
    if not words or not _PLAIN.fullmatch(words[0]):
        raise RefusedError("only plain python, ubuntu and debian images are emulated")


def _take(word: str, rest: str, image: Image, variables: dict[str, str], context: Path) -> None:
    if "<<" in rest and word in ("RUN", "COPY", "ADD"):
        raise RefusedError("here-documents are not emulated")
    known = {"PATH": _PATH, "HOME": "/root", **variables, **image.environment}
    if word == "ARG":
        name, equals, value = rest.partition("=")
        variables[name] = _expanded(_unquoted(value), known) if equals else ""
    elif word == "ENV":
        image.environment |= _pairs(rest, known)
    elif word == "WORKDIR":
        image.folder = inside(posixpath.join(image.folder, _expanded(_unquoted(rest), known)))
        image.folders.append(image.folder)
    elif word in ("COPY", "ADD"):
        _copy(word, _expanded(rest, known), image, context)
    elif word == "RUN":
        for part in re.split(r"\s*(?:&&|;)\s*", rest):
            _run(part, image, known)
    elif word in ("CMD", "ENTRYPOINT", "SHELL"):
        check_start(json.loads(rest) if rest.startswith("[") else shlex.split(rest))
    elif word == "USER" and rest in ("root", "0"):
        return
    elif word not in _IGNORED:
        raise RefusedError("this instruction is not emulated")


def check_start(words: Sequence[str]) -> None:
    """Raises RefusedError for a command at the start of a container that is more than a shell that waits."""
    if not {part for word in words for part in shlex.split(word)} <= _SHELLS:
        raise RefusedError("what a container starts by itself is not emulated")


def _copy(word: str, rest: str, image: Image, context: Path) -> None:
    words = json.loads(rest) if rest.startswith("[") else shlex.split(rest)
    flags = [w for w in words if w.startswith("--")]
    words = [w for w in words if not w.startswith("--")]
    modes = [int(w.removeprefix("--chmod="), 8) for w in flags if re.fullmatch(r"--chmod=[0-7]{3,4}", w)]
    if others := [w for w in flags if not w.startswith(("--chown=root", "--chmod=0", "--chmod=6", "--chmod=7"))]:
        raise RefusedError(f"{others[0]} is not emulated")
    if len(words) < 2:
        raise RefusedError("a source or a destination is missing")
    *sources, last = words
    to = posixpath.join(image.folder, last)
    as_folder = last.endswith("/") or last in (".", "./") or len(sources) > 1
    for source in sources:
        if "://" in source or (word == "ADD" and re.search(r"\.(tar|tgz|tar\.\w+|zip)$", source)):
            raise RefusedError("only plain files and folders beside the Dockerfile are copied")
        top = context.resolve()
        matches = sorted(top.glob(source.strip("/"))) if source.strip("./") else [top]
        if not matches:
            raise RefusedError(f"{source} is not there")
        for match in matches:
            if not match.resolve().is_relative_to(top):
                raise RefusedError(f"{source} is outside of the folder")
            if match.is_dir():
                for path in sorted(p for p in match.rglob("*") if p.is_file() and p.resolve().is_relative_to(top)):
                    if path.name != "Dockerfile" or match != top:
                        _put(image, posixpath.join(to, path.relative_to(match).as_posix()), path, modes)
                image.folders.append(inside(to))
            else:
                within = as_folder or inside(to) in image.folders
                _put(image, posixpath.join(to, match.name) if within else to, match, modes)


def _put(image: Image, to: str, path: Path, modes: list[int]) -> None:
    image.files[inside(to)] = path.read_bytes(), modes[0] if modes else path.stat().st_mode & 0o777 | 0o444
    if sum(len(content) for content, _ in image.files.values()) > _MAX_BYTES:
        raise RefusedError(f"more than {_MAX_BYTES >> 20} MB of files")


def _run(part: str, image: Image, known: Mapping[str, str]) -> None:
    try:
        words = [_expanded(word, known) for word in shlex.split(part)]
    except ValueError as error:
        raise RefusedError(f"this command is not emulated: {error}") from error
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    plain = not re.search(r"[|<>`*?$]|\$\(", part)
    match words:
        case [] | ["apt-get" | "apt", *_] if not words or {"update", "clean", "autoremove", "upgrade"} & set(words):
            return
        case ["rm", "-rf", *paths] if all(p.startswith(("/var/lib/apt", "/var/cache", "/root/.cache")) for p in paths):
            return
        case ["apt-get" | "apt", *rest] if "install" in rest:
            for name in (w.partition("=")[0] for w in rest if w != "install" and not w.startswith("-")):
                if not _is_on_host(name):
                    raise RefusedError(f"the host has no package {name}")
        case ["pip" | "pip3", "install", *rest] | ["python" | "python3", "-m", "pip", "install", *rest]:
            image.packages += [_installed(w) for w in rest if not w.startswith("-")]
        case ["mkdir", *paths] if plain:
            image.folders += [inside(posixpath.join(image.folder, p)) for p in paths if not p.startswith("-")]
        case ["chmod", "+x" | "755" | "0755", *paths] if plain:
            for path in (inside(posixpath.join(image.folder, p)) for p in paths):
                if path not in image.files:
                    raise RefusedError(f"{path} was not copied")
                image.files[path] = image.files[path][0], 0o755
        case _:
            raise RefusedError("this command is not emulated")


def _is_on_host(package: str) -> bool:
    info = Path("/var/lib/dpkg/info")
    if shutil.which(package, path="/usr/bin:/usr/sbin:/bin:/sbin"):
        return True
    return bool(re.fullmatch(r"[\w.+-]+", package)) and any(
        (info / f"{package}{tail}.list").is_file() for tail in ("", ":amd64", ":arm64")
    )


def _installed(wanted: str) -> str:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(wanted)
        here = version(requirement.name)
    except InvalidRequirement as error:
        raise RefusedError(f"pip: {wanted} is no name of a distribution") from error
    except PackageNotFoundError as error:
        raise RefusedError(f"pip: {requirement.name} is not installed here") from error
    if not requirement.specifier.contains(here, prereleases=True):
        raise RefusedError(f"pip: {requirement.name} is {here} here, wanted {requirement.specifier}")
    return requirement.name


def inside(path: str) -> str:
    """The path without detours. Raises RefusedError where nothing can be written in the sandbox."""
    plain = posixpath.normpath(path)
    top = plain.strip("/").partition("/")[0]
    if top in _CLOSED and not plain.startswith("/tmp/"):
        raise RefusedError(f"{plain} cannot be written in the sandbox")
    return plain


def _pairs(rest: str, known: Mapping[str, str]) -> dict[str, str]:
    first = rest.partition(" ")[0]
    if "=" not in first:
        name, _, value = rest.partition(" ")
        return {name: _expanded(_unquoted(value.strip()), known)}
    return {n: _expanded(v, known) for n, _, v in (word.partition("=") for word in shlex.split(rest))}


def _expanded(text: str, known: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: known.get(found[1] or found[3], found[2] or ""), text)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
