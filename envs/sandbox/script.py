"""Sandbox.run_python: one program, a fresh sandbox, everything it printed."""

from __future__ import annotations

import os
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from envs.sandbox.bubblewrap import not_started, python_program, start
from envs.sandbox.files import ARCHIVE, cover_points, mount_points, pack
from envs.sandbox.limits import Limits

GUEST = Path(__file__).with_name("guest_script.py")
_CHUNK = 65_536
_START_S = 30.0  # a start takes some 20 ms on an idle machine


@dataclass(frozen=True)
class SandboxResult:
    """How a program ended. ``exit_code`` is negative for a signal's number, as in ``subprocess``: -9 after a
    kill by us (``timed_out`` or ``truncated`` says why)."""

    stdout: str
    stderr: str
    exit_code: int
    timed_out: bool = False  # wall or CPU time ran out
    truncated: bool = False  # it printed more than Limits.output_bytes and was stopped


class Sandbox:
    """Runs programs, each in a sandbox of its own. Safe to share between threads; holds nothing open.

    Raises SandboxUnavailableError when the machine cannot give a real sandbox.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()

    def run_python(
        self,
        code: str,
        stdin: str = "",
        files: Mapping[str, bytes] = {},
        mounts: Mapping[str, Path] = {},
        covers: Mapping[str, bytes] = {},
        hash_seed: int = 0,
        folders: Sequence[str] | None = None,
    ) -> SandboxResult:
        """Run ``code`` as ``python main.py`` with ``stdin`` on its standard input.

        ``files`` (path -> content) are put, writable, below ``/tmp/work``, which is then the working folder
        (``/tmp`` without files). A path is relative, with "/" between folders and no "..", "." or empty part.
        ``mounts`` (name -> folder or file of the host) appear read-only at ``/mnt/<name>``; a name is letters,
        digits and ``_ . + -``. All that lies in a mounted folder can be read, and a socket in it can be
        talked to: mount nothing that the program must not know. ``covers`` (path below ``/mnt`` -> content) lie,
        read-only, over files of the mounts: the program cannot see what is underneath. ``hash_seed``: the interpreter's
        (``PYTHONHASHSEED``), for whoever wants to see whether the order of sets matters. ``folders`` (such as /app) are
        writable, empty, and with them (``()`` is enough) the host's programs below /usr can be run, a shell among them.

        Raises ValueError for a bad path or name, for a cover over no file, and for files that ``limits.disk_mb`` cannot
        hold.
        """
        try:
            source, text = code.encode("utf-8"), stdin.encode("utf-8")
        except UnicodeEncodeError as error:
            return SandboxResult("", f"the program is not valid Unicode text: {error}", exit_code=1)
        program = python_program(GUEST.read_text(encoding="utf-8"), self.limits)
        inside = [("/main.py", source)]
        if files:
            inside.append((ARCHIVE, pack(files, self.limits.disk_mb)))
        inside += cover_points(covers, mounts)
        process = start(self.limits, program, inside, mount_points(mounts), hash_seed=hash_seed, folders=folders)
        try:
            await_start(process)
            deadline = time.monotonic() + self.limits.wall_s
            out, err, timed_out, truncated = _exchange(process, text, deadline, self.limits.output_bytes)
        finally:
            process.kill()  # the kernel ends every process of the sandbox with it
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        status = process.returncode
        if 128 < status <= 192:  # bwrap reports the signal that ended the program as 128 + its number
            status = 128 - status
        if -status == signal.SIGXCPU:
            timed_out = True
        return SandboxResult(
            out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), status, timed_out, truncated
        )


def await_start(process: subprocess.Popen[bytes]) -> None:
    """Waits for the guest's first byte; what goes wrong before it is the machine's fault."""
    assert process.stdout
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN)
    if not poll.poll(_START_S * 1000) or os.read(process.stdout.fileno(), 1) != b"\x02":
        raise not_started(process)


def _exchange(
    process: subprocess.Popen[bytes], stdin: bytes, deadline: float, cap: int
) -> tuple[bytes, bytes, bool, bool]:
    """Feeds and drains the pipes: to the program's end, the deadline, or over ``cap`` from a stream.

    Returns (stdout, stderr, timed out, truncated). On return the program may still be running.
    """
    assert process.stdin
    assert process.stdout
    assert process.stderr
    collected = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    truncated = timed_out = False
    pending = memoryview(stdin)
    with selectors.DefaultSelector() as selector:
        for descriptor in collected:
            selector.register(descriptor, selectors.EVENT_READ)
        if pending:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        else:
            process.stdin.close()
        open_streams = len(collected)
        while open_streams and not truncated:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready and time.monotonic() >= deadline:
                timed_out = True
                break
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    try:
                        pending = pending[os.write(key.fd, pending) :]
                    except BrokenPipeError:  # the program does not read its input
                        pending = pending[:0]
                    if not pending:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                data = os.read(key.fd, _CHUNK)
                if not data:
                    selector.unregister(key.fd)
                    open_streams -= 1
                    continue
                stream = collected[key.fd]
                stream += data
                if len(stream) > cap:
                    del stream[cap:]
                    truncated = True
        if not (timed_out or truncated):
            # Both streams are closed, but the program may live on without them.
            try:
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                timed_out = True
    out, err = (bytes(stream) for stream in collected.values())
    return out, err, timed_out, truncated
