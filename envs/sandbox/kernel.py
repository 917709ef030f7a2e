"""KernelSession: a Jupyter kernel in a sandbox, with numpy, pandas and sympy; V3.2's code interpreter.

    with KernelSession(files={"sales.csv": b"day,sold\\n1,4\\n2,5\\n"}) as kernel:
        kernel.run("import pandas as pd; table = pd.read_csv('sales.csv')")
        kernel.run("table.sold.sum()")      # ExecResult(output="9\\n")

The kernel is ipykernel, and what goes over the wire is Jupyter's protocol, over ZeroMQ (see ``zmtp.py``) on Unix
sockets: the sandbox has no network. The sockets are opened out here, in a folder that only this user can enter
and that is gone once the kernel answers; the sandbox inherits their descriptors and sees no folder of the host.

What comes back is not trusted. A message counts for a cell only if it is signed and names that cell's random
id, so nothing can be sent ahead for a later cell; nothing is read between cells, and a bounded amount during
one; a kernel that does not react to an interrupt is killed. (Code of an earlier cell still runs in the same
process and can change what later cells do and print. That is so in any notebook.)
"""

from __future__ import annotations

import contextlib
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from envs.sandbox.bubblewrap import SandboxUnavailableError, not_started, python_program, start
from envs.sandbox.cell import CellOutput
from envs.sandbox.files import ARCHIVE, pack
from envs.sandbox.limits import KERNEL_LIMITS, Limits
from envs.sandbox.packages import package_mounts
from envs.sandbox.python_session import LOST, ExecResult
from envs.sandbox.script import GUEST, await_start
from envs.sandbox.zmtp import Channel, HungUpError

_KERNEL = Path(__file__).with_name("guest_kernel.py")
_CHANNELS = ("shell", "control", "iopub")
_START_S = 60.0  # a start takes 0.3 s on an idle machine
_INTERRUPT_S = 3.0  # between the interrupt and the kill
_SETTLE_S = 5.0  # output may arrive after the reply
_PRINTED = 1 << 20  # characters that a cell may print or show at least, before print() raises
_ESCAPED = 6  # bytes of a character in JSON, at worst
_JUNK: dict[str, Any] = {"parent_header": {}, "content": {}}


class KernelSession:
    """Runs cells one after the other in one Jupyter kernel; the value of a last expression is shown as text.

    The kernel starts at the first call. A cell that takes longer than ``limits.wall_s`` is interrupted (variables
    are kept), and the kernel is killed when that does not help. A call that ends the kernel says so in its error;
    the next one gets a new kernel with the same ``files``, in which ``setup`` has run again.
    A cell may print a million characters (``limits.output_bytes`` if that is more), then print() raises.
    Rich results are shown as text. There is no shell, so ``!commands`` fail. Not for several threads at once.

    ``files`` (path -> content) lie in the working folder, ``/tmp/work``, writable; names as for
    ``Sandbox.run_python``. ``packages`` can be imported, with what they need, and no other.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        setup: str = "",
        files: Mapping[str, bytes] = {},
        packages: Sequence[str] = ("numpy", "pandas", "sympy"),
    ) -> None:
        self.limits = limits or KERNEL_LIMITS
        self.setup = setup
        self.packages = tuple(packages)
        self._printed = max(_PRINTED, self.limits.output_bytes)
        self._archive = pack(files, self.limits.disk_mb)
        self._process: subprocess.Popen[bytes] | None = None
        self._channels: dict[str, Channel] = {}
        self._session: Any = None

    def __enter__(self) -> KernelSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, code: str) -> ExecResult:
        """Run one cell. Whatever the code does comes back as a result.

        Raises SandboxUnavailableError when there is no sandbox or no ipykernel, ValueError when ``setup`` fails.
        """
        try:
            code.encode("utf-8")
        except UnicodeEncodeError:
            return ExecResult("", "SyntaxError: the code is not valid Unicode text")
        if self._process is None:
            self.start()
        return self._cell(code)

    def start(self) -> None:
        """Start the kernel now rather than at the first call (0.3 s)."""
        if self._process is not None:
            return
        try:
            self._open()
        except (HungUpError, TimeoutError) as error:
            process, self._process = self._process, None
            assert process is not None
            try:
                raise not_started(process) from error
            finally:
                self.close()
        except OSError as error:
            self.close()
            raise SandboxUnavailableError(f"cannot start a kernel ({error}); too many processes or files?") from error
        except BaseException:
            self.close()
            raise
        if self.setup:
            first = self._cell(self.setup)
            if first.error:
                self.close()
                raise ValueError(f"KernelSession.setup failed: {first.error}; setup was {self.setup!r}")

    def close(self) -> None:
        """End the kernel and everything it started; leaves no process, descriptor or file. May be called again."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # the operating system ends every process of the sandbox with it
            process.wait()
            _close_streams(process)
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()

    def _open(self) -> None:
        try:
            from jupyter_client.session import Session
        except ImportError as error:
            raise SandboxUnavailableError(
                f"no Jupyter client ({error}). Install it: pip install jupyter_client ipykernel"
            ) from error
        mounts = package_mounts(("ipykernel", *self.packages))
        key = secrets.token_hex(16)
        folder = tempfile.mkdtemp(prefix="kernel-")  # mode 0700
        listening: list[socket.socket] = []
        try:
            for name in _CHANNELS:
                listening.append(_listen(f"{folder}/{name}"))
            descriptors = [end.fileno() for end in listening]
            program = python_program(
                GUEST.read_text(encoding="utf-8"), replace(self.limits, cpu_s=self.limits.cpu_s * 100)
            )
            program += [",".join(map(str, descriptors)), key, str(self.limits.cpu_s), str(self._printed)]
            inside = [("/main.py", _KERNEL.read_bytes()), (ARCHIVE, self._archive)]
            self._process = start(self.limits, program, inside, mounts, descriptors)
            self._session = Session(key=key.encode(), username="host")
            for name in _CHANNELS:
                kind = "SUB" if name == "iopub" else "DEALER"
                self._channels[name] = Channel(f"{folder}/{name}", kind, self._printed * (_ESCAPED + 1))
            await_start(self._process)
            self._await_ready(time.monotonic() + _START_S)
        finally:
            for listener in listening:
                listener.close()
            shutil.rmtree(folder)
        _close_streams(self._process)  # what a cell prints does not come this way

    def _await_ready(self, deadline: float) -> None:
        """Until the kernel has answered on every channel; only then are all of them connected."""
        for channel in self._channels.values():
            channel.handshake(deadline)
        asked = {name: self._send(name, "kernel_info_request", {}, deadline) for name in ("shell", "control")}
        missing = set(_CHANNELS)
        while missing:
            for name, message, _ in self._receive(deadline):
                if name == "iopub" or message["parent_header"].get("msg_id") == asked[name]:
                    missing.discard(name)

    def _send(self, channel: str, kind: str, content: dict[str, Any], deadline: float) -> str:
        """Returns the message's id. Raises HungUpError, and TimeoutError at the deadline."""
        message = self._session.msg(kind, content)
        self._channels[channel].send(self._session.serialize(message), deadline)
        return str(message["header"]["msg_id"])

    def _receive(self, deadline: float) -> list[tuple[str, dict[str, Any], int]]:
        """What has arrived, waiting for something: (channel, message, bytes). Junk is an empty message.

        Raises TimeoutError at the deadline, HungUpError when the kernel has ended and all it said was read.
        """
        left_s = deadline - time.monotonic()
        if left_s <= 0:  # also when there is something to read: a flood must not outlast the deadline
            raise TimeoutError
        poll = select.poll()
        for channel in self._channels.values():
            poll.register(channel, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(left_s * 1000)}
        arrived = []
        hung_up: HungUpError | None = None
        for name, channel in self._channels.items():
            if channel.fileno() in ready:
                try:
                    messages = channel.receive()
                except HungUpError as error:
                    hung_up = error
                    continue
                arrived += [(name, self._read(frames), sum(map(len, frames))) for frames in messages]
        if hung_up and not arrived:
            raise hung_up
        return arrived

    def _read(self, frames: list[bytes]) -> dict[str, Any]:
        try:
            _, parts = self._session.feed_identities(frames)
            message: dict[str, Any] = self._session.deserialize(parts)
            well_formed = all(isinstance(message[part], dict) for part in ("parent_header", "content"))
        except Exception:  # whatever the other side made up: a wrong signature, a replay, bad JSON
            return _JUNK
        return message if well_formed else _JUNK

    def _exit_code(self) -> int | None:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may have hung up and live on
            return self._process.wait(timeout=1.0)
        return None

    def _cell(self, code: str) -> ExecResult:
        limits = self.limits
        cell = CellOutput(limits.output_bytes)
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
        deadline = time.monotonic() + limits.wall_s
        stopped = ""  # why the cell was interrupted
        received = 0
        try:
            asked = self._send("shell", "execute_request", content, deadline)
            while not (cell.replied and cell.idle):
                try:
                    arrived = self._receive(min(deadline, cell.replied + _SETTLE_S) if cell.replied else deadline)
                except TimeoutError:
                    if stopped or cell.replied:
                        raise
                    stopped = f"TimeoutError: no result after {limits.wall_s:g} seconds"
                else:
                    for name, message, size in arrived:
                        received += size
                        if message["parent_header"].get("msg_id") == asked:
                            cell.take(name, message)
                    if stopped or received <= self._printed * _ESCAPED * 4:
                        continue
                    stopped = "OutputError: the output limit is reached"
                deadline = time.monotonic() + _INTERRUPT_S
                self._send("control", "interrupt_request", {}, deadline)
        except TimeoutError:
            self.close()
            error = f"{stopped or 'The session ended'}. {LOST}"
            return cell.result(error, timed_out=stopped.startswith("TimeoutError"), restarted=True)
        except HungUpError:
            died_of_cpu = self._exit_code() == 128 + signal.SIGXCPU  # as bwrap reports it
            self.close()
            why = (
                f"TimeoutError: more than {limits.cpu_s} CPU seconds" if died_of_cpu else stopped or "The session ended"
            )
            return cell.result(f"{why}. {LOST}", timed_out=why.startswith("TimeoutError"), restarted=True)
        if stopped:
            error = f"{stopped}; the cell was interrupted, variables are kept."
            return cell.result(error, timed_out=stopped.startswith("TimeoutError"))
        return cell.result(cell.error)


def _listen(path: str) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        end.bind(path)
        end.listen(1)
    except OSError as error:
        end.close()
        raise SandboxUnavailableError(
            f"cannot open a socket at {path} ({error}); set TMPDIR to a short path"
        ) from error
    return end


def _close_streams(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
