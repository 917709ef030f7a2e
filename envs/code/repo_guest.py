"""Runs inside the sandbox: imports a package, its edited files among it, and runs doctests and pytest tests.

Given to ``Sandbox.run_python`` as text; never imported by the toolkit. The package lies below ``top`` as it is to be
tested. The job comes as JSON on standard input, so that no file holds it: ``top`` (what paths are relative to),
``root`` (the folder of the code), ``path`` (where imports begin), ``first`` (modules to import before anything is
timed), ``doctests``, ``pytest`` (node ids or files), ``only`` (null, or the test functions to run of these),
``options`` (of pytest), ``names`` (what every doctest may use), ``test_s``, ``cover``, ``stop`` (end at the first test
that takes too long); or ``script``, a program to run as it is; or ``states``, see ``States``.
One line of JSON per test goes out on a private copy of standard output:
``["doctest", id, [[got, error], ...], seconds, covered]`` or
``["pytest", id, passed, {message, line, inside}, seconds, covered]``, ``["collect", file, message]`` for a test file
that could not be imported; at the end ``["end", CPU seconds]``.

The code under test can write such lines too. So nothing here says that a doctest has passed: the lines say what its
examples printed, and what they should have printed is known outside only. pytest tests do say so, to the policy
that asks for them. No score reads it but that of ``release_verdict``, which knows outside which of them must fail.
"""

import contextlib
import importlib
import io
import json
import os
import signal
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable, Generator, Mapping
from typing import Any

# No "from __future__ import annotations" here: compile() would hand it on to the code under test.


_GRACE_S = 1.0  # CPU seconds after which SIGPROF ends the process: a loop inside C code sees no exception


class TooLong(BaseException):
    """A test used more CPU time than it may. Not an Exception, so that code under test does not swallow it."""


class Watch:
    """Time and coverage of one test at a time. CPU time, so that a busy machine changes no result."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.limit, self.cover, self.prefix = job["test_s"], job["cover"], job["root"] + "/"
        self.top = job["top"] + "/"
        self.late = False
        self.codes: dict[int, types.CodeType] = {}
        signal.signal(signal.SIGVTALRM, self.stop)

    def stop(self, number: int, frame: types.FrameType | None) -> None:
        self.late = True
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.5)  # again, in case somebody catches everything
        raise TooLong

    def __enter__(self) -> "Watch":
        self.late, self.codes, self.started = False, {}, time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, self.limit)
        signal.setitimer(signal.ITIMER_PROF, self.limit + _GRACE_S)
        if self.cover:
            sys.settrace(self.enter)
        return self

    def enter(self, frame: types.FrameType, event: str, argument: object) -> None:
        self.codes[id(frame.f_code)] = frame.f_code  # and no trace of its lines: returns None

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.seconds = round(time.process_time() - self.started, 4)

    def covered(self) -> list[str]:
        start = len(self.top)
        return sorted(
            {
                code.co_filename[start:] + "::" + code.co_qualname.split(".<locals>")[0]
                for code in self.codes.values()
                if code.co_filename.startswith(self.prefix)
            }
        )


def run_doctest(test: Mapping[str, Any], names: Mapping[str, str], watch: Watch) -> list[tuple[str, str | None]] | None:
    """What each example printed or raised. The namespace is the module's own, as doctest has it."""
    shown: list[tuple[str, str | None]] = []
    stdout, hook = sys.stdout, sys.displayhook
    try:
        with watch:
            module = importlib.import_module(test["module"])
            namespace = dict(vars(module), __name__="__main__")
            for name, target in names.items():
                namespace[name] = importlib.import_module(target)
            for source in test["examples"]:
                buffer = io.StringIO()
                sys.stdout, sys.displayhook = buffer, sys.__displayhook__
                error = None
                try:
                    exec(compile(source, "<doctest>", "single", 0, True), namespace)
                except TooLong:
                    raise
                except BaseException as raised:
                    error = traceback.format_exception_only(type(raised), raised)[-1]
                shown.append((buffer.getvalue()[:4000], error))
    except TooLong:
        pass  # the watch knows
    except BaseException as raised:
        shown.append(("", "".join(traceback.format_exception_only(type(raised), raised))))
    finally:
        sys.stdout, sys.displayhook = stdout, hook
    return None if watch.late else shown


def run_pytest(job: Mapping[str, Any], watch: Watch, report: Callable[[list[object]], None]) -> None:
    """Runs the targets in one pytest session and reports each test as it ends."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # each costs a start; ``options`` names those that are needed
    import pytest

    stop, only = job["stop"], job["only"]

    class Reporter:
        failed: bool | None = False
        info: dict[str, Any] = {}

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
            self.failed, self.info = False, {}
            with watch:
                result = yield
            passed = None if watch.late else self.failed is False
            report(["pytest", item.nodeid, passed, self.info, watch.seconds, watch.covered()])
            if watch.late and stop:
                raise pytest.exit.Exception("a test takes too long")
            return result

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(
            self, item: pytest.Item, call: pytest.CallInfo[None]
        ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
            left, _ = signal.setitimer(signal.ITIMER_VIRTUAL, 0)  # an alarm in pytest's own code ends the session
            made = yield
            if not watch.late:
                signal.setitimer(signal.ITIMER_VIRTUAL, left)
            if made.outcome != "passed" and self.failed is False:
                self.failed = True if made.failed else None  # skipped tests count as neither
                if call.excinfo is not None:
                    here = [e for e in call.excinfo.traceback if str(e.path) == str(item.path)]
                    message = call.excinfo.exconly(tryshort=True)
                    self.info = {"message": message[:2000], "line": here[-1].lineno + 1 if here else None}
                    self.info["inside"] = innermost(call.excinfo.traceback, str(item.path))
                if made.skipped:
                    self.info["skipped"] = True
            return made

        def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
            if only is not None:
                wanted = [item for item in items if item.nodeid.partition("[")[0] in only]
                config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
                items[:] = wanted

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            if report.failed:
                tell(["collect", report.nodeid, str(report.longrepr)[-1000:]])

    def innermost(traceback: Any, test: str) -> str | None:
        """path::function of the last frame in the code under test."""
        for entry in reversed(list(traceback)):
            code = entry.frame.code.raw
            if code.co_filename.startswith(watch.prefix) and code.co_filename != test:
                return str(code.co_filename[len(watch.top) :] + "::" + code.co_qualname.split(".<locals>")[0])
        return None

    tell = report
    options = ["-q", f"--rootdir={job['top']}", "--capture=no", "-W", "ignore", "--tb=no"]
    options += ["--continue-on-collection-errors", *job["options"]]
    for plugin in ("cacheprovider", "faulthandler", "unraisableexception", "threadexception", "junitxml"):
        options += ["-p", f"no:{plugin}"]
    reporter = Reporter()
    with contextlib.suppress(SystemExit):
        pytest.main([*options, *(f"{job['top']}/{t}" for t in job["pytest"])], plugins=[reporter])


class States:
    """Many states of the files, one after the other, each in a process of its own: forked when pytest is imported, and
    what the first one took from the standard library and from what lies beside the package (``/mnt``), so that a state
    costs what its own code and tests cost.

    ``job["states"]`` holds of each ``over`` ({path: text, or None for a file that is not there}) and what it has of a
    job's own; ``["state", number]`` goes out before its lines, ``["left", number, how]`` after them. For a build, which
    runs released code alone; what a policy wrote has a sandbox to itself.
    """

    def __init__(self, job: Mapping[str, Any], report: Callable[[list[object]], None]) -> None:
        self.job, self.report, self.started = job, report, 0
        self.files: dict[str, tuple[bytes, os.stat_result]] = {}
        for place in self.places():
            with open(place, "rb") as file:
                self.files[place] = (file.read(), os.stat(place))

    def run(self) -> None:
        from _pytest.config import default_plugins

        sys.dont_write_bytecode = False  # what did not change is compiled once
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        for name in default_plugins:
            importlib.import_module(f"_pytest.{name}")
        for number, state in enumerate(self.job["states"]):
            self.report(["state", number])
            for path, text in state["over"].items():
                self.put(f"{self.job['top']}/{path}", None if text is None else text.encode("utf-8", "replace"))
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                self.child(state, writer if number == 0 else None)
            os.close(writer)
            names = b""
            late = not signal.sigtimedwait({signal.SIGCHLD}, self.job["state_s"])
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            while chunk := os.read(reader, 65_536):
                names += chunk
            os.close(reader)
            over = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGXCPU)
            self.report(["left", number, "late" if late or over else "ended"])
            for name in names.decode().split():
                self.take(name)
            self.restore()

    def take(self, name: str) -> None:
        """Import a module for the states to come, unless that imports code that they change."""
        before = set(sys.modules)
        with contextlib.suppress(Exception):
            importlib.import_module(name)
        fresh = sys.modules.keys() - before
        if any(str(getattr(sys.modules[one], "__file__", None)).startswith(f"{self.job['top']}/") for one in fresh):
            for one in fresh:
                del sys.modules[one]

    def child(self, state: Mapping[str, Any], names: int | None) -> None:
        try:
            os.setpgid(0, 0)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            job = {**self.job, **state}
            run_pytest(job, Watch(job), self.report)
            self.report(["end", round(time.process_time(), 3)])
            if names is not None:
                places = [(name, str(getattr(module, "__file__", None))) for name, module in sys.modules.items()]
                found = [name for name, place in places if place.startswith(("/python/", "/mnt/"))]
                os.write(names, " ".join(found)[:60_000].rpartition(" ")[0].encode())
        finally:
            os._exit(0)

    def put(self, place: str, content: bytes | None) -> None:
        """With a time of its own, so that no compiled file is taken for this text's."""
        if content is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place)
            return
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(content)
        self.started += 1
        os.utime(place, (1_000_000_000 + self.started,) * 2)

    def places(self) -> list[str]:
        found = (f"{folder}/{name}" for folder, _, names in os.walk(self.job["top"]) for name in names)
        return [place for place in found if "__pycache__" not in place]

    def restore(self) -> None:
        """The files as they were before any state, whatever tests wrote."""
        here = set(self.places())
        for place in here - self.files.keys():
            self.put(place, None)
        for place, (content, before) in self.files.items():
            now = os.stat(place) if place in here else None
            if now is None or (now.st_mtime_ns, now.st_size) != (before.st_mtime_ns, before.st_size):
                self.put(place, content)
                os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    sys.path.extend(place for place in job["path"] if place not in sys.path)
    if "script" in job:  # of the policy, for its own eyes
        exec(compile(job["script"], "<script>", "exec"), {"__name__": "__main__"})
        return
    channel = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)

    def report(row: list[object]) -> None:
        line = json.dumps(row).encode() + b"\n"
        while line:
            line = line[os.write(channel, line) :]

    warnings.simplefilter("ignore")
    watch = Watch(job)
    # importing counts for no test: the first would pay for all
    for name in job["first"]:
        try:
            importlib.import_module(name)
        except BaseException as error:
            report(["import", name, "".join(traceback.format_exception_only(type(error), error))[:2000]])
    for test in job["doctests"]:
        shown = run_doctest(test, job["names"], watch)
        report(["doctest", test["id"], shown, watch.seconds, watch.covered()])
        if shown is None and job["stop"]:
            return
    if job.get("states"):
        States(job, report).run()
    if job["pytest"]:
        run_pytest(job, watch, report)
    report(["end", round(time.process_time(), 3)])
    os._exit(0)  # threads and exit handlers of the code under test are of no interest


if __name__ == "__main__":
    main()
