"""``policy.path=owner/name`` is fetched from the hub: here from a server on this machine, with the hub's own client."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rl.run.hub import is_hub_id
from rl.run.paths import on_the_hub

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"a pickle", "run.py": b"code"}
SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """One model, me/tiny."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path in (f"/api/models/me/tiny/revision/{r}" for r in ("main", SHA)):
            siblings = [{"rfilename": name} for name in FILES]
            self.answer(json.dumps({"id": "me/tiny", "sha": SHA, "siblings": siblings}).encode(), "application/json")
        elif path == f"/api/models/me/tiny/tree/{SHA}":
            tree = [{"type": "file", "path": n, "size": len(b), "oid": SHA} for n, b in FILES.items()]
            self.answer(json.dumps(tree).encode(), "application/json")
        elif path.startswith(f"/me/tiny/resolve/{SHA}/") and (name := path.rpartition("/")[2]) in FILES:
            self.answer(FILES[name], "application/octet-stream")
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(setting: str, endpoint: str, home: Path, how: str = "") -> str:
    """What a process of its own says that ``setting`` is: the client reads its endpoint when it is imported."""
    code = (
        "import sys\nfrom rl.run.paths import policy_directory\n"
        f"try: print(sorted(p.name for p in policy_directory('policy.path', sys.argv[1]{how}).iterdir()))\n"
        "except ValueError as error: print(error)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", code, setting], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_model_of_the_hub_and_again_without_it(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    wanted = "['config.json', 'model.safetensors']"  # neither pickles nor code
    assert ask("me/tiny", endpoint, tmp_path) == wanted
    assert ask("me/tiny", "http://127.0.0.1:9", tmp_path) == wanted
    assert ask("me/other", endpoint, tmp_path) == (
        "policy.path=me/other: no such directory, and the hub has no model of that name (a private one needs: hf auth "
        "login)"
    )


def test_a_plan_fetches_no_weights(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    """A run that follows fetches the rest."""
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    assert ask("me/tiny", endpoint, tmp_path, ", config_only=True") == "['config.json']"
    assert ask("me/tiny", endpoint, tmp_path) == "['config.json', 'model.safetensors']"


def test_without_a_network(tmp_path: Path) -> None:
    assert ask("me/tiny", "http://127.0.0.1:9", tmp_path) == (
        "policy.path=me/tiny: no such directory, and the hub cannot be reached to fetch a model of that name "
        "(LocalEntryNotFoundError); give a directory with a policy in Hugging Face format"
    )


@pytest.mark.parametrize(
    ("setting", "is_one"),
    [("me/tiny-0.5B_x", True), ("tiny", False), ("./tiny", False), ("a/b/c", False), ("/a/b", False), ("a/", False),
     ("pkg://rl.bases/tiny_dsa_base", False), ("../me/tiny", False)],
)  # fmt: skip
def test_owner_and_name(setting: str, is_one: bool) -> None:
    assert is_hub_id(setting) is is_one


def test_a_directory_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert on_the_hub("me/tiny")
    (tmp_path / "me" / "tiny").mkdir(parents=True)
    assert not on_the_hub("me/tiny")
