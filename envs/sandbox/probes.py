"""How an attempt to get out of the sandbox is made and judged; ``escapes.py`` is the list of attempts.

A probe is a few lines of Python that finish only where a barrier is missing:

    Probe("a TCP port of the host", "no socket can be made", "socket.create_connection(('127.0.0.1', PORT), 1)",
          {"EPERM"}, control=ANY)

It holds when it ends in one of the ways that were foreseen (an errno, an exception, the time limit ...): a probe
that fails for another reason, a slip in itself say, does not pass for a barrier. ``control`` says who can show that
the probe would notice a missing barrier: the same lines, run outside the sandbox, must end in another way.

Probes do no harm where a barrier is missing: what is not theirs they open and close and never write; they signal
only a process of the ``Bait``; what they fork or take is counted.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from envs.sandbox.limits import Limits
from envs.sandbox.script import Sandbox

ANY, ROOT = "any", "root"  # who can run the control: any user, or root alone

# The number of a system call on x86-64 and on arm64 (None: it has none there).
# fmt: off
CALLS: Mapping[str, tuple[int, int | None]] = {
    "add_key": (248, 217), "bpf": (321, 280), "clone": (56, 220),
    "clone3": (435, 435), "fanotify_init": (300, 262), "fsopen": (430, 430), "init_module": (175, 105),
    "io_uring_setup": (425, 425), "iopl": (172, None), "kexec_load": (246, 104), "keyctl": (250, 219),
    "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "mq_open": (240, 180), "msgget": (68, 186), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438), "pivot_root": (155, 41),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117), "reboot": (169, 142),
    "semget": (64, 190), "setns": (308, 268), "settimeofday": (164, 170), "shmget": (29, 194),
    "swapon": (167, 224), "syslog": (103, 116), "umount2": (166, 39), "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
# fmt: on
_ARCHITECTURES = {"x86_64": 0, "aarch64": 1}

# What every probe starts with. The process name is a mark by which its processes are found on the host.
_PRELUDE = """
import ctypes, errno, mmap, os, resource, signal, socket, stat, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(15, MARK.encode(), 0, 0, 0)
def checked(value):
    if value < 0: raise OSError(ctypes.get_errno(), "")
    return value
def call(number, *arguments):
    return checked(libc.syscall(number, *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))
def refuse(): raise PermissionError(errno.EPERM, "")
try:
"""
_END = """
except BaseException as error:
    print(errno.errorcode.get(getattr(error, "errno", None)) or type(error).__name__)
else:
    print("open")
"""


@dataclass(frozen=True)
class Probe:
    """One attempt. ``ends`` are the outcomes (see ``outcome_of``) that mean that the barrier held."""

    tries: str  # what is tried
    must: str  # what must happen
    code: str  # may use the names of Bait.values, call(), checked(), refuse() and the modules of the prelude
    ends: frozenset[str] | set[str]
    control: str = ""  # ANY or ROOT: run outside the sandbox, by such a user, it must end otherwise
    limits: Limits = field(default_factory=lambda: Limits(wall_s=10.0))
    x86_only: bool = False

    def runs_here(self) -> bool:
        machine = os.uname().machine
        return machine == "x86_64" if self.x86_only else machine in _ARCHITECTURES


class Bait:
    """Things of the host that a probe may look for, made for the purpose. A context manager."""

    def __enter__(self) -> Bait:
        self._folder = tempfile.TemporaryDirectory(prefix="bait-")
        folder = Path(self._folder.name)
        folder.chmod(0o755)
        secret = folder / "secret"
        secret.write_text("hunter2")
        self.descriptor = os.open(secret, os.O_RDONLY)
        os.set_inheritable(self.descriptor, True)
        os.environ["SANDBOX_BAIT"] = "hunter2"
        abstract = f"bait-{secrets.token_hex(8)}"
        self._sockets = []
        for kind, address in (
            (socket.AF_INET, ("127.0.0.1", 0)),
            (socket.AF_UNIX, str(folder / "socket")),
            (socket.AF_UNIX, "\0" + abstract),
        ):
            end = socket.socket(kind, socket.SOCK_STREAM)
            end.bind(address)
            end.listen(64)
            self._sockets.append(end)
        (folder / "socket").chmod(0o777)
        self.child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
        self.values = {
            "SECRET": str(secret),
            "PORT": self._sockets[0].getsockname()[1],
            "UNIX": str(folder / "socket"),
            "ABSTRACT": abstract,
            "CHILD": self.child.pid,
            "HARNESS": os.getpid(),
            "PACKAGE": str(Path(__file__).parent),
        }
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()
        self.child.wait()
        for end in self._sockets:
            end.close()
        os.close(self.descriptor)
        del os.environ["SANDBOX_BAIT"]
        self._folder.cleanup()

    def program(self, probe: Probe, mark: str) -> str:
        """The probe as a program of its own."""
        machine = _ARCHITECTURES[os.uname().machine]
        numbers = {name.upper(): pair[machine] for name, pair in CALLS.items()}
        known = {**numbers, **self.values, "MARK": mark}
        used = [name for name in known if re.search(rf"\b{name}\b", probe.code)]
        names = "".join(f"{name} = {known[name]!r}\n" for name in used)
        body = "\n".join("    " + line for line in probe.code.splitlines())
        return names + f"MARK = {mark!r}" + _PRELUDE + body + _END


def inside(probe: Probe, bait: Bait) -> tuple[str, list[int]]:
    """(how the probe ended in a sandbox, processes of it that still live on the host)."""
    mark = f"p{secrets.token_hex(6)}"
    result = Sandbox(probe.limits).run_python(bait.program(probe, mark))
    if result.timed_out:
        end = "time"
    elif result.truncated:
        end = "output"
    else:
        end = _last_word(result.stdout, result.exit_code, result.stderr)
    return end, survivors(mark)


def outside(probe: Probe, bait: Bait) -> str:
    """How the same probe ends as a plain process of this user. Only for probes with a ``control``."""
    assert probe.control
    program = bait.program(probe, f"p{secrets.token_hex(6)}")
    with tempfile.TemporaryDirectory(prefix="bait-") as folder:
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=30,
            check=False,
            pass_fds=(bait.descriptor,),
        )
    return _last_word(done.stdout, done.returncode, done.stderr)


def _last_word(stdout: str, exit_code: int, stderr: str) -> str:
    if exit_code < 0:
        return signal.Signals(-exit_code).name
    lines = stdout.split()
    return lines[-1] if lines else f"exit {exit_code}: {stderr.strip()[-200:]}"


def survivors(mark: str, patience_s: float = 5.0) -> list[int]:
    """Processes named ``mark``; none of them at all, or those still there after ``patience_s``."""
    deadline = time.monotonic() + patience_s
    while found := [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/comm") if _named(path, mark)]:
        if time.monotonic() >= deadline:
            break
        time.sleep(0.02)
    return found


def _named(path: Path, mark: str) -> bool:
    try:
        return path.read_text().strip() == mark
    except OSError:  # it has just ended
        return False
