"""PythonSession: state, notebook printing, and everything that can end a session."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.sandbox import Limits, PythonSession


@pytest.fixture
def session() -> Iterator[PythonSession]:
    with PythonSession(Limits(wall_s=5.0)) as opened:
        yield opened


def test_keeps_state_and_prints_the_last_value(session: PythonSession):
    assert session.run("x = 47 * 38").output == ""
    assert session.run("x + 9").output == "1795\n"
    assert session.run("print('a')\n'b'").output == "a\n'b'\n"
    assert session.run("None").output == ""
    assert session.run("def f(n):\n    return n + 1\nf(1)").output == "2\n"
    assert session.run("").output == ""


def test_errors_are_one_line_and_state_survives(session: PythonSession):
    session.run("x = 5")
    assert session.run("1 / 0").error == "ZeroDivisionError: division by zero"
    assert session.run("y = 1\nx + z").error == "NameError: name 'z' is not defined (line 2)"
    assert session.run("a = 1\ndef").error.startswith("SyntaxError: ")
    assert session.run("raise SystemExit").error == "SystemExit"
    assert session.run("input()").error == "EOFError: EOF when reading a line"
    result = session.run("print('before')\nint('q')")
    assert result.output == "before\n"
    assert result.error == "ValueError: invalid literal for int() with base 10: 'q' (line 2)"
    assert session.run("x").output == "5\n"


def test_prints_of_every_kind_are_in_the_output(session: PythonSession):
    code = "import os, subprocess, sys\nprint('a', flush=True)\nos.write(1, b'b\\n')\n"
    code += "print('c', file=sys.stderr)\n"
    code += "done = subprocess.run([sys.executable, '-c', 'print(\"d\")'])"
    assert session.run(code).output == "a\nb\nc\nd\n"


def test_output_is_capped_and_the_session_goes_on():
    with PythonSession(Limits(wall_s=5.0, output_bytes=100)) as session:
        result = session.run("'x' * 1000")
        assert result.truncated
        assert len(result.output) == 100
        endless = session.run("while True: print('y' * 1000)")
        assert endless.truncated
        assert endless.error == "OutputError: the output limit is reached"
        assert session.run("1 + 1").output == "2\n"
        assert session.run("'é' * 60").output.startswith("'éé")  # cut inside a character


def test_a_closed_stdout_does_not_end_the_session(session: PythonSession):
    session.run("import sys; sys.stdout.close()")
    assert session.run("print(7)").output == "7\n"


def test_timeout_restarts_with_setup_and_says_so():
    with PythonSession(Limits(wall_s=0.5), setup="data = [3, 4]") as session:
        session.run("x = 1")
        started = time.monotonic()
        result = session.run("while True: pass")
        assert time.monotonic() - started < 60  # it would never end
        assert result.timed_out
        assert result.restarted
        assert "no result after 0.5 seconds" in result.error
        assert "variables are lost" in result.error
        assert session.run("x").error == "NameError: name 'x' is not defined"
        assert session.run("sum(data)").output == "7\n"


@pytest.mark.parametrize("code", ["import os; os._exit(0)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_session_that_kills_itself(session: PythonSession, code: str):
    result = session.run(code)
    assert result.restarted
    assert not result.timed_out
    assert "variables are lost" in result.error
    assert session.run("2").output == "2\n"


def test_cpu_limit_counts_as_timeout():
    with PythonSession(Limits(wall_s=30.0, cpu_s=1)) as session:
        result = session.run("while True: pass")
        assert result.timed_out
        assert "CPU seconds" in result.error
        assert session.run("2").output == "2\n"


def test_junk_on_the_protocol_only_ends_the_session(session: PythonSession):
    session.run("import os")
    result = session.run("for n in range(3, 20):\n  try: os.write(n, b'\\xff' * 64)\n  except OSError: pass")
    assert isinstance(result.output, str)
    for _ in range(3):
        assert isinstance(session.run("1").output, str)
    assert session.run("2").output in ("2\n", "")


def test_memory_limit_leaves_the_session_alive(session: PythonSession):
    assert session.run("x = bytearray(10 ** 9)").error == "MemoryError"
    assert session.run("2").output == "2\n"


def test_setup_that_fails_is_our_error():
    with pytest.raises(ValueError, match=r"PythonSession.setup failed: ZeroDivisionError"):
        PythonSession(setup="1 / 0").run("1")


def test_survives_the_thread_that_opened_it(session: PythonSession):
    thread = threading.Thread(target=session.run, args=("x = 8",))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert session.run("x").output == "8\n"


def test_close_ends_the_process_and_may_be_repeated():
    session = PythonSession()
    session.close()
    session.run("1")
    process = session._process
    assert process is not None
    session.close()
    session.close()
    assert process.poll() is not None


SHARED = PythonSession(Limits(wall_s=5.0))


def teardown_module() -> None:
    SHARED.close()


@settings(max_examples=40)
@given(st.text(max_size=40))
def test_any_text_gives_a_result(code: str):
    result = SHARED.run(code)
    assert not result.timed_out
    assert SHARED.run("'alive'").output == "'alive'\n"


@settings(max_examples=40)
@given(st.lists(st.integers(-999, 999), min_size=1, max_size=6), st.sampled_from([" + ", " - ", " * "]))
def test_arithmetic_is_python_s(numbers: list[int], sign: str):
    expression = sign.join(f"({n})" for n in numbers)
    assert SHARED.run(expression).output == f"{eval(expression)}\n"
