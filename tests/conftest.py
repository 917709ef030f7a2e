"""What holds for every test: its kind, and that its result does not depend on how busy the machine is.

Kinds: ``run`` starts a console command of ours or is in tests/integration; ``engine`` starts vLLM or Ray; ``unit`` is
every other test. The first two are marked by hand (``pytestmark``) or by the fixture that starts the thing; a unit test
that starts it all the same fails and is told so.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: two processes of tests share two cores
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15: beside another process of tests its workers starve

import pytest
from in_process import COMMANDS

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # a GPU machine with torch, transformers, triton and pytest alone: pytest -m gpu
    settings = None  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from train_runs import FirstRun

ROOT = Path(__file__).parents[1]
KINDS = ("unit", "engine", "run")
GPU_FILES = ("conftest.py", "devices.py")  # and test_gpu_*.py
BY_FIXTURE = {"local_ray": "engine", "first_run": "run"}
MODULES = {target.split(":")[0] for target in COMMANDS.values()}

# A deadline of hypothesis is wall time, which says nothing on a busy machine; nor does slow generation.
if settings is not None:
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")

_now: list[pytest.Item] = []  # the test that runs


def pytest_configure(config: pytest.Config) -> None:
    """Without a GPU Triton's kernels are interpreted; that is settled when triton is loaded, by whomever."""
    if config.option.markexpr.strip() != "gpu" and shutil.which("nvidia-smi") is None:
        os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m gpu`` only files that have such tests are imported: what the others need may not be installed."""
    if config.option.markexpr.strip() != "gpu" or not collection_path.is_file():
        return None
    return None if collection_path.name in GPU_FILES or "test_gpu_" in collection_path.name else True


def kind_of(item: pytest.Item) -> str:
    for kind in KINDS:
        if item.get_closest_marker(kind):
            return kind
    if item.path.parent == ROOT / "tests" / "integration":
        return "run"
    fixtures = getattr(item, "fixturenames", ())
    return next((kind for fixture, kind in BY_FIXTURE.items() if fixture in fixtures), "unit")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test with its kind, before ``-m`` chooses among them, and puts what takes longest first."""
    for item in items:
        kind = kind_of(item)
        if not item.get_closest_marker(kind):
            item.add_marker(kind)
        if kind == "run":  # a minute; a quarter of an hour when ten others use the machine
            item.add_marker(pytest.mark.timeout(900))
    # The sandbox tests wait more than they compute, and would keep one of two processes alone at the end.
    items.sort(key=lambda item: (-KINDS.index(kind_of(item)), item.path.parent.name != "sandbox"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each of several processes (``-n 2``) takes whole files: their fixtures are made once, ``first_run`` too."""
    from xdist.scheduler import LoadScopeScheduling

    together = {str(p.relative_to(ROOT)) for p in ROOT.glob("tests/*/test_*.py") if "first_run" in p.read_text()}

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "first_run" if file in together else file

    config.option.loadscopereorder = False  # the order above, not that of the number of tests
    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _now[:] = [item]
    try:
        return (yield)
    finally:
        _now.clear()


def what_starts(argv: list[str]) -> str | None:
    """The kind of test that may start this process; None: every test may."""
    names = [os.path.basename(word) for word in argv[:2]]
    if any(name in COMMANDS for name in names) or (argv[1:2] == ["-m"] and argv[2] in MODULES):
        return "run"
    return "engine" if any(name in ("gcs_server", "raylet") for name in names) else None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Ends a unit test, and the import of a test module, that starts vLLM, Ray or a command."""
    if event == "import" and arguments[0].split(".")[0] == "vllm":
        needs: str | None = "engine"
    elif event == "subprocess.Popen":
        given = arguments[1]
        needs = what_starts(
            [os.fsdecode(w) for w in ([given] if isinstance(given, str | bytes | os.PathLike) else given)]
        )
    else:
        return
    if needs and not any(item.get_closest_marker(kind) for item in _now for kind in ("engine", "run")):
        what = "imports vllm" if event == "import" else f"starts {arguments[1]}"
        pytest.fail(f"a unit test {what}: mark it with pytest.mark.{needs} (tests/conftest.py)")


sys.addaudithook(_audit)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray instance for all tests of this process that talk to actors; each closes what it opened in it."""
    from configs.schema import RayConfig
    from rl.run.assemble import cluster

    with cluster(RayConfig(num_cpus=3, object_store_mb=200), 1):
        yield


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> FirstRun:
    """One minute run of the main job, shared by the tests of whole runs and of what is done with one."""
    from train_runs import SCRATCH, SMALL, Command, FirstRun

    from rl.tracking.rundir import RunDir

    cwd = tmp_path_factory.mktemp("first")
    overrides = (*SCRATCH, *SMALL, "steps=2", "checkpoint_every=1", "keep_checkpoints=1")
    output = Command("rl-train", *overrides, "name=first", cwd=cwd).wait()
    return FirstRun(cwd, overrides, output, RunDir.existing(cwd / "runs" / "first"))
