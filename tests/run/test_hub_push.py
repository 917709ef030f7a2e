"""``push_to_hub=owner/name``: here to a server on this machine, with the hub's own client. No upload to the hub itself
was ever made by these tests."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rl.run.hub import check_push

TOKEN = "hf_only_for_this_test"


class Hub(BaseHTTPRequestHandler):
    """Takes one commit, all files in it."""

    asked: list[tuple[str, dict[str, object]]]
    refuses = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        lines = [json.loads(line) for line in body.splitlines()]
        server = self.server
        assert isinstance(server, Server)
        server.asked += [(self.path, line) for line in lines]
        server.tokens.add(self.headers.get("Authorization", ""))
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        if server.refuses:
            self.answer({"error": "no room"}, 403)
        elif self.path == "/api/repos/create":
            self.answer({"url": f"{endpoint}/me/tiny"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/models/me/tiny/preupload/main":
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in lines[0]["files"]]
            self.answer({"files": files})
        elif self.path == "/api/models/me/tiny/commit/main":
            self.answer({"commitUrl": f"{endpoint}/me/tiny/commit/abc", "commitOid": "abc"})
        else:
            self.answer({"error": self.path}, 404)

    def do_GET(self) -> None:
        self.answer({"id": "me/tiny", "sha": "0" * 40, "siblings": []})

    def answer(self, value: object, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.tokens: set[str] = set()
        self.refuses = False


@pytest.fixture
def hub() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    directory = tmp_path / "policy"
    (directory / "eval").mkdir(parents=True)
    for name in ("README.md", "config.json", "model.safetensors", "notes.py", "eval/summary.json"):
        (directory / name).write_text("{}" if name.endswith("json") else "text")
    return directory


def push(policy: Path, endpoint: str, home: Path, *, public: bool = False) -> str:
    """What a process of its own says: the client reads its endpoint when it is imported."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom rl.run.hub import check_push, push\n"
        "try:\n    check_push('me/tiny')\n    print(push(Path(sys.argv[1]), 'me/tiny', public=sys.argv[2] == 'True'))\n"
        "except ValueError as error:\n    print(error)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(policy), str(public)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("public", [False, True])
def test_the_policy_goes_up(public: bool, hub: Server, policy: Path, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    assert push(policy, endpoint, tmp_path / "home", public=public) == f"{endpoint}/me/tiny/commit/abc"
    asked = [line for path, line in hub.asked if path == "/api/repos/create"]
    assert [line.get("private", line.get("visibility")) for line in asked] in ([not public], ["public" if public else
                                                                                              "private"])  # fmt: skip
    files: dict[str, bytes] = {}
    for path, line in hub.asked:
        value = line.get("value")
        if path.endswith("/commit/main") and line["key"] == "file" and isinstance(value, dict):
            files[value["path"]] = base64.b64decode(value["content"])
    assert set(files) == {"README.md", "config.json", "model.safetensors"}  # no code, nothing of an evaluation
    assert files["model.safetensors"] == b"text"
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_a_refusal_is_one_line_with_the_command_for_later(hub: Server, policy: Path, tmp_path: Path) -> None:
    hub.refuses = True
    said = push(policy, f"http://127.0.0.1:{hub.server_address[1]}", tmp_path / "home")
    assert said.startswith("push_to_hub=me/tiny: the upload failed (HfHubHTTPError: ")
    assert said.endswith(f"the run is complete, later: hf upload me/tiny {policy} --exclude 'eval/*'")
    assert "\n" not in said
    assert TOKEN not in said


def test_without_a_hub(policy: Path, tmp_path: Path) -> None:
    said = push(policy, "http://127.0.0.1:9", tmp_path / "home")
    assert said.startswith("push_to_hub=me/tiny: the upload failed (ConnectError: ")


def test_a_token_is_asked_for_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ValueError, match=r"^push_to_hub=me/tiny: there is no token .* hf auth login"):
        check_push("me/tiny")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)
    check_push("me/tiny")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        check_push("me/tiny")
