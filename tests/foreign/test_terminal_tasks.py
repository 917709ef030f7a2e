"""Folders of terminal-bench and Harbor: what runs in the sandbox, what is refused with which cause, what is paid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from foreign_terminals import TESTS, TOML, harbor, named, terminal_bench

from envs.episode import demonstrator, play_episode
from envs.foreign.dockerfile import read_dockerfile
from envs.foreign.examined import RefusedError
from envs.foreign.terminal_folder import read_folder
from envs.foreign.terminal_tasks import TerminalTaskset
from envs.types import Message, ToolCall


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TerminalTaskset]:
    tasks = tmp_path_factory.mktemp("tasks")
    harbor(tasks, "harbor")
    terminal_bench(tasks, "bench")
    harbor(tasks, "unsolved", **{"solution/solve.sh": "echo 7 > sum.txt\nexit 3\n"})
    harbor(
        tasks,
        "done",
        **{
            "tests/test_outputs.py": TESTS.partition("\n\n\ndef test_kept")[0].partition("def test_sum")[0]
            + "def test_nothing():\n    assert Path('/app').exists()\n"
        },
    )
    harbor(tasks, "image", **{"environment/Dockerfile": "FROM nvidia/cuda:12.4\n"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECIALE_CACHE", str(tasks / "cache"))
        yield TerminalTaskset(path=tasks, workers=2)


def test_tasks_of_both_forms_run_and_the_others_are_refused_with_their_cause(mixed: TerminalTaskset) -> None:
    assert [mixed.task(n).metadata["key"] for n in range(len(mixed))] == [named("bench"), named("harbor")]
    assert [mixed.task(n).metadata["level"] for n in range(2)] == [3, 2]
    assert mixed.task(1).metadata["f2p"] == ["test_outputs.py::test_sum"]
    causes = {
        "unsolved": "after its solution 1 of 2 tests fail, test_outputs.py::test_sum: AssertionError",
        "done": "all of 1 tests pass before anything was done",
        "image": "Dockerfile, line 1: only plain python, ubuntu and debian images are emulated (FROM nvidia/cuda:12.4)",
    }
    assert mixed.refused.keys() == {named(stem) for stem in causes}
    for stem, cause in causes.items():
        assert cause in mixed.refused[named(stem)], mixed.refused[named(stem)]
    assert "its solution ended with 3" in mixed.refused[named("unsolved")]


def played(taskset: TerminalTaskset, *commands: str) -> tuple[list[str], float]:
    """(what the tool said, outcome) of an episode with these commands."""
    task = taskset.task(1)
    environment = taskset.environment(task)
    said = [Message("assistant", tool_calls=(ToolCall("bash", {"command": c}),)) for c in commands]
    actions = iter([*said, Message("assistant", "Done.")])
    episode, scores = play_episode(task, environment, lambda history: next(actions))
    return [m.content for m in episode.messages if m.role == "tool"], scores["outcome"]


def test_the_oracle_is_paid_one_and_a_policy_keeps_its_files_and_folder(mixed: TerminalTaskset) -> None:
    task = mixed.task(1)
    environment = mixed.environment(task)
    assert play_episode(task, environment, demonstrator(environment))[1]["outcome"] == 1.0
    said, outcome = played(mixed, "cd data; cat numbers.txt; echo $B", "pwd; echo 6 > ../sum.txt; exit 4")
    assert said == ["1\n2\n3\ntwo words\n(exit code 0)", "/app/data\n(exit code 4)"]
    assert outcome == 1.0
    assert played(mixed)[1] == played(mixed, "true")[1] == 0.0


def test_what_a_policy_leaves_behind_decides_nothing(mixed: TerminalTaskset) -> None:
    """Hidden tests are not there, and neither a conftest nor a process of its own is beside them."""
    forge = "import sys; sys.modules['test_outputs'] = None"
    said, outcome = played(
        mixed,
        "ls /tests /solution; grep -rl test_sum /app /root /tmp /var; echo over; nohup sleep 100 &",
        f'for f in /tests/conftest.py conftest.py pathlib.py; do echo "{forge}" > $f; done; kill -9 -1',
    )
    assert said[0] == "/solution:\n\n/tests:\nover\n(exit code 0)"
    assert "the command ended the sandbox, and the files are as they were" in said[1]
    assert outcome == 0.0


def test_network_and_the_host_are_out_of_reach(mixed: TerminalTaskset) -> None:
    said, _ = played(mixed, "ls /work /home /proc; touch /usr/x; python3 -c 'import socket; socket.socket()'; id -u")
    assert "Read-only file system" in said[0]
    assert "Operation not permitted" in said[0]
    assert said[0].splitlines()[-2] != "0"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("RUN curl -O http://a.b/c", "this command is not emulated (RUN curl"),
        ("RUN apt-get install -y no-such-package-here", "the host has no package no-such-package-here"),
        ("RUN pip install pytest==0.1", "pip: pytest is "),
        ("RUN pip install no-such-thing-here", "pip: no-such-thing-here is not installed here"),
        ("FROM ubuntu", "a second FROM"),
        ("COPY ../secret .", "../secret is outside of the folder"),
        ("COPY absent.txt .", "absent.txt is not there"),
        ("COPY a.txt /usr/share/a.txt", "/usr/share/a.txt cannot be written in the sandbox"),
        ("COPY --from=other a b", "--from=other is not emulated"),
        ("ADD https://a.b/c /app", "only plain files and folders"),
        ("EXPOSE 80", "this instruction is not emulated"),
        ("USER somebody", "this instruction is not emulated"),
        ('ENTRYPOINT ["nginx"]', "what a container starts by itself"),
        ("RUN <<E", "here-documents are not emulated"),
    ],
)
def test_a_line_of_a_dockerfile_that_cannot_be_emulated_is_named(tmp_path: Path, line: str, said: str) -> None:
    inner = tmp_path / "context"
    inner.mkdir()
    (tmp_path / "secret").write_text("x")
    (inner / "a.txt").write_text("x")
    (inner / "Dockerfile").write_text(f"FROM --platform=linux/amd64 python:3.13-slim AS base\n\n{line}\n")
    with pytest.raises(RefusedError, match=r"^Dockerfile, line 3: ") as caught:
        read_dockerfile(inner / "Dockerfile")
    assert said in str(caught.value)


def test_an_image_has_its_files_folders_and_variables(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "run.sh").write_text("echo")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "Dockerfile").write_text(
        'FROM python:3.12\nENV TOP /srv\nWORKDIR $TOP/app\nCOPY ["a.txt", "b.txt"]\nCOPY src/ ./code/\n'
        "RUN mkdir -p out && chmod +x code/run.sh\nRUN pip install --no-cache-dir pytest\nENV PATH=/x:$PATH\n"
    )
    image = read_dockerfile(tmp_path / "Dockerfile")
    assert {path: mode & 0o111 for path, (_, mode) in image.files.items()} == {
        "/srv/app/b.txt": 0,
        "/srv/app/code/run.sh": 0o111,
    }
    assert (image.folder, image.packages) == ("/srv/app", ["pytest"])
    assert "/srv/app/out" in image.folders
    assert image.environment["PATH"].startswith("/x:/usr/local/bin:")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"task.toml": f"{TOML}gpus = 1\n"}, "environment.gpus=1: the sandbox has none"),
        ({"task.toml": f'{TOML}docker_image = "a/b"\n'}, "environment.docker_image=a/b"),
        ({"task.toml": f"{TOML}[[steps]]\n"}, "a task in several steps"),
        ({"task.toml": f"{TOML}[environment.healthcheck]\n"}, "environment.healthcheck is not emulated"),
        ({"task.toml": "="}, "task.toml cannot be read"),
        ({"environment/docker-compose.yaml": "services: {}"}, "environment/docker-compose.yaml: several containers"),
        ({"solution/solve.sh": ""}, "there is no solution/solve.sh"),
        ({"tests/test.sh": "grep -q 6 /app/sum.txt && echo 1 > /logs/verifier/reward.txt"}, "could be forged"),
        ({"instruction.md": ""}, "there is no instruction.md"),
        ({"instruction.md": " \n"}, "instruction.md is empty"),
        ({"task.toml": "environment = 3\n"}, "it is not in the form that it should have"),
        ({"task.toml": f"{TOML}workdir = 5\n"}, "task.toml: environment.workdir=5: must be an absolute path"),
        ({"task.toml": f'{TOML}workdir = "/usr/x"\n'}, "environment.workdir: /usr/x cannot be written in the sandbox"),
        ({"environment/Dockerfile": "FROM ubuntu\nCMD [\n"}, "it is not in the form that it should have"),
    ],
)
def test_a_folder_that_cannot_be_run_says_why(tmp_path: Path, changed: dict[str, str], said: str) -> None:
    with pytest.raises(RefusedError) as caught:
        read_folder(harbor(tmp_path, "task", **changed))
    assert said in str(caught.value)


def test_compose_files_of_one_plain_container_are_read(tmp_path: Path) -> None:
    plain = "services:\n  client:\n    build: {dockerfile: Dockerfile}\n    working_dir: /work/here\n"
    plain += "    environment:\n      - TEST_DIR=${T_BENCH_TEST_DIR}\n      - KEY=1\n"
    plain += "    volumes:\n      - ${T_BENCH_TASK_LOGS_PATH}:${T_BENCH_CONTAINER_LOGS_PATH}\n"
    image = read_folder(terminal_bench(tmp_path, "one", f"{plain}    command: [sh, -c, sleep infinity]\n")).image
    assert image.folder == image.folders[-1] == "/work/here"
    assert image.environment["KEY"] == "1"
    assert "TEST_DIR" not in image.environment
    for stem, extra, said in (
        ("two", "  db:\n    image: postgres\n", "2 services (client, db)"),
        ("gpu", "    deploy: {resources: {}}\n", "client.deploy is not emulated"),
        ("vol", "    ports: ['80:80']\n", "client.ports is not emulated"),
        ("start", "    command: python server.py\n", "client.command: what a container starts by itself"),
        ("yaml", "    [\n", "docker-compose.yaml cannot be read"),
    ):
        with pytest.raises(RefusedError) as caught:
            read_folder(terminal_bench(tmp_path, stem, plain + extra))
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": ""}, "path is missing"),
        ({"path": "nowhere"}, "path=nowhere: there is no such folder"),
        ({"disk_mb": 1}, "disk_mb=1: must be from 4 to 1024"),
        ({}, "path=.*: no task.yaml"),
    ],
)
def test_wrong_settings_are_said(tmp_path: Path, settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TerminalTaskset(**{"path": tmp_path, **settings})  # type: ignore[arg-type]


def test_folders_that_are_no_task_are_said_once_and_a_test_that_moves_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SPECIALE_CACHE", str(tmp_path / "cache"))
    tasks = tmp_path / "tasks"
    harbor(tasks, "good")
    noted = 'def test_layout():  # a note\n    assert Path(__file__).read_text().count("a note") == 2\n'
    harbor(tasks, "moves", **{"tests/test_outputs.py": f"{TESTS}\n\n{noted}"})
    for name in ("notes", "zoo", ".git"):
        (tasks / name).mkdir()
    (tasks / "README.md").write_text("")
    for _ in range(2):
        taskset = TerminalTaskset(path=tasks)
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert told == [f"{tasks}: folders without task.yaml or task.toml, left out: 2, the first notes"]
    assert [taskset.task(n).metadata["key"] for n in range(len(taskset))] == [named("good")]
    assert "test_layout passes only sometimes" in taskset.refused[named("moves")]
