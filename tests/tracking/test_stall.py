"""Deadlines: they end a wait, say what it was for, nest, and leave no trace."""

from __future__ import annotations

import asyncio
import signal
import threading
import time

import pytest

from rl.tracking.stall import StallError, deadline, within


def test_a_wait_is_ended_and_named(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(StallError, match=r"waited 0\.05 s for group 7 \(search/3\)"),
        deadline("group 7 (search/3)", 0.05),
    ):
        time.sleep(60)
    assert "Stacks of all threads" in capfd.readouterr().err


def test_nothing_happens_in_time() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with deadline("nothing", 60):
        pass
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_the_pending_things_are_listed_at_expiry() -> None:
    pending = ["a", "b"]

    @deadline(lambda: f"groups {pending}", 0.05)
    def wait() -> None:
        pending.remove("a")
        time.sleep(60)

    with pytest.raises(StallError) as caught:
        wait()
    assert caught.value.what == "groups ['b']"


@pytest.mark.parametrize(("outer", "inner", "named"), [(0.05, 60, "outer"), (60, 0.05, "inner")])
def test_nesting(outer: float, inner: float, named: str) -> None:
    started = time.monotonic()
    with pytest.raises(StallError, match=named), deadline("outer", outer), deadline("inner", inner):
        time.sleep(60)
    assert time.monotonic() - started < 30
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_the_outer_deadline_goes_on_after_the_inner() -> None:
    @deadline("outer", 0.1)
    def wait() -> None:
        with deadline("inner", 60):
            pass
        time.sleep(60)

    with pytest.raises(StallError, match="outer"):
        wait()


def test_other_threads_are_told() -> None:
    errors: list[str] = []

    def body() -> None:
        try:
            with deadline("x", 60):
                pass
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert "main thread only" in errors[0]


def test_bad_seconds() -> None:
    with pytest.raises(ValueError, match="deadline of 0 s"), deadline("x", 0):
        pass


def test_within() -> None:
    async def slow() -> int:
        await asyncio.sleep(60)
        return 1

    async def quick() -> int:
        return 2

    async def own_timeout() -> int:
        raise TimeoutError("mine")

    async def run() -> None:
        assert await within("quick", 60, quick()) == 2
        with pytest.raises(StallError, match="for the probe"):
            await within("the probe", 0.05, slow())
        with pytest.raises(TimeoutError, match="mine"):
            await within("x", 60, own_timeout())

    asyncio.run(run())
