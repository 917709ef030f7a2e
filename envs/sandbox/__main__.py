"""``python -m envs.sandbox``: tries the walls of the sandbox on this machine and says what held."""

from __future__ import annotations

import os
import sys
import time

from envs.sandbox import Limits, PythonSession, Sandbox, SandboxUnavailableError

# (what is tried, program that prints "open" when it got through, limits)
_ATTEMPTS: tuple[tuple[str, str, Limits], ...] = (
    (
        "network",
        "import socket\nsocket.create_connection(('127.0.0.1', 22), 1)\nprint('open')",
        Limits(),
    ),
    (
        "host files",
        "import os\nif os.path.exists('/etc/passwd') or os.path.exists('/root'): print('open')",
        Limits(),
    ),
    ("kernel settings", "open('/proc/sys/kernel/core_pattern', 'r+')\nprint('open')", Limits()),
    ("writing outside /tmp", "open('/python/x', 'w')\nprint('open')", Limits()),
    (
        "root",
        "import os\ntry: os.setuid(0)\nexcept OSError: pass\nif os.getuid() == 0: print('open')",
        Limits(),
    ),
    ("memory", "x = bytearray(400 << 20)\nprint('open')", Limits()),
    (
        "processes",
        "import os, time\nfor _ in range(40):\n if os.fork() == 0: time.sleep(2); os._exit(0)\nprint('open')",
        Limits(),
    ),
    ("endless output", "while True: print('x' * 1000)", Limits(wall_s=5)),
    ("endless loop", "while True: pass", Limits(wall_s=1)),
)


def main() -> int:
    """Prints one line per wall; returns 0 when all held."""
    started = time.perf_counter()
    try:
        hello = Sandbox().run_python("import os; print(os.getuid())")
    except SandboxUnavailableError as error:
        print(f"no sandbox: {error}", file=sys.stderr)
        return 1
    if hello.exit_code != 0:
        print(f"no sandbox: a trivial program failed: {hello.stderr.strip() or hello}", file=sys.stderr)
        return 1
    print(f"started as uid {os.geteuid()}, inside uid {hello.stdout.strip()}; first start {_ms(started)}")
    failed = 0
    for name, program, limits in _ATTEMPTS:
        result = Sandbox(limits).run_python(program)
        held = "open" not in result.stdout
        failed += not held
        last = result.stderr.strip().splitlines()[-1] if result.stderr.strip() else ""
        how = "stopped: time" if result.timed_out else "stopped: output" if result.truncated else last
        print(f"{'held' if held else 'OPEN':5} {name:22} {how}")
    started = time.perf_counter()
    for _ in range(20):
        Sandbox().run_python("")
    print(f"one program: {_ms(started, 20)}")
    started = time.perf_counter()
    with PythonSession() as session:
        session.run("x = 1")
        print(f"one session start and call: {_ms(started)}")
        started = time.perf_counter()
        for _ in range(100):
            session.run("x + 1")
        print(f"one more call: {_ms(started, 100)}")
    return 1 if failed else 0


def _ms(started: float, count: int = 1) -> str:
    return f"{(time.perf_counter() - started) / count * 1000:.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
