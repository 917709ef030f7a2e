"""Every address of `rl-view` over HTTP: what it shows, what it refuses; what a policy writes is never markup."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_runs import HOSTILE, client_of, make_run, metrics, rollout
from starlette.testclient import TestClient

from rl.tracking.svg import readable


class Tags(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        return [a[name] or "" for t, a in self.elements if t == tag and name in a]


def page(client: TestClient, url: str) -> Tags:
    answer = client.get(url)
    assert answer.status_code == 200, answer.text
    return Tags(answer.text)


def test_the_list_of_runs(client: TestClient) -> None:
    tags = page(client, "/")
    assert tags.values("tr", "data-run") == ["second run", "first"] or tags.values("tr", "data-run") == [
        "first",
        "second run",
    ]
    assert "/run/second%20run" in tags.values("a", "href")
    assert "3 / 3" in tags.text
    assert "+1.000" in tags.text
    checked = [a["value"] for t, a in tags.elements if t == "input" and "checked" in a]
    assert checked == tags.values("tr", "data-run")[:1]
    both = page(client, "/?run=first&run=second+run&run=gone")
    assert len([1 for t, a in both.elements if t == "input" and "checked" in a]) == 2
    assert "There is no run gone here" in both.text


def test_no_runs_is_a_page_that_helps(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        tags = page(client_of(directory), "/")
        assert "No runs yet" in tags.text
        assert str(directory) in tags.text
        assert "rl-train" in tags.text


def test_a_run_without_rollouts(tmp_path: Path) -> None:
    from rl.tracking.rundir import RunDir

    RunDir(tmp_path / "a").log_metrics("coldstart", 1, {"sft/loss": 1.0})
    assert "No rollouts yet" in page(client_of(tmp_path), "/run/a").text


def test_the_rollouts_of_a_run(client: TestClient) -> None:
    tags = page(client, "/run/first")
    assert "4 rollouts" in tags.text  # of eval_after
    assert "answer 0 eval_after" in tags.text
    every = page(client, "/run/first?file=*&family=code&sort=-reward")
    assert "16 rollouts" in every.text
    assert every.values("option", "value").count("step_000002") == 1
    assert [a["value"] for t, a in every.elements if t == "option" and "selected" in a] == [
        "*",
        "code",
        "",
        "",
        "-reward",
    ]
    found = page(client, "/run/first?file=step_000002&text=ANSWER+3")
    assert [t for t, _ in found.elements].count("mark") == 2
    assert "No rollout is like that" in page(client, "/run/first?text=nobody+said+this").text


def test_the_certificates_of_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", steps=1)
    assert "Certificates" not in page(client_of(tmp_path), "/run/a").text
    stale = {"state": "stale", "said": f"changed since: code ({HOSTILE})", "date": "2030-01-02T03:04", "tasks": 20}
    figures = {"oracle": "19 of 20", "cheats": "2 of 63 paid"}
    certificates = {"search": {"state": "ours", "said": ""}, "code": stale | {"results": figures}}
    run.write_summary(run.read_summary() | {"certificates": certificates})
    text = page(client_of(tmp_path), "/run/a").text
    assert "Certificates of the task sets: code stale, search needs none" in text
    assert "19 of 20" in text
    assert "2 of 63 paid" in text
    assert "changed since: code (<script>window.stolen = 1</script>" in text


def test_pages_of_a_long_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", steps=1)
    run.log_trajectories("step_000001", [rollout(f"s-0-{k}", reward=k / 119) for k in range(120)])
    client = client_of(tmp_path)
    first = page(client, "/run/a?file=step_000001&sort=-reward")
    assert "page 1 of 3 · 120 rollouts" in first.text
    (following,) = [a["href"] for t, a in first.elements if t == "a" and a.get("rel") == "next"]
    assert following is not None
    second = page(client, following)
    assert "page 2 of 3" in second.text
    assert "0.580" in second.text  # the 51st: 69 / 119
    assert "on page 9" in page(client, "/run/a?file=step_000001&page=9").text


def test_a_rollout_with_its_group(client: TestClient) -> None:
    tags = page(client, "/run/first/rollout?at=step_000002:1&file=step_000002&sort=-reward")
    for text in ("search-train/2", "Group of this task", "I search.", 'search(query="library")',
                 "The library is in Oslo.", "answer 1 of 2", "0.333",
                 "policy version 2", "Looks it up.", "5 of 8"):  # fmt: skip
        assert text in tags.text, text
    chips = [a for t, a in tags.elements if t == "a" and "chip" in (a.get("class") or "")]
    assert len(chips) == 4
    assert [a.get("aria-current") for a in chips] == [None, "true", None, None]
    links = {a["rel"]: a["href"] for t, a in tags.elements if t == "a" and "rel" in a}
    assert "at=step_000002%3A6" in (links["prev"] or "")  # the other family's with the same reward comes after
    assert "sort=-reward" in (links["next"] or "")


def test_a_held_out_task_before_and_after(client: TestClient) -> None:
    tags = page(client, "/run/first/rollout?at=eval_before:0")
    assert "Same task in eval_before" in tags.text
    assert "Same task in eval_after" in tags.text
    assert len([1 for t, a in tags.elements if t == "a" and "chip" in (a.get("class") or "")]) == 4


def test_a_masked_rollout_and_one_without_tokens(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", steps=1)
    run.log_trajectories("step_000001", [rollout(failure="env_error")], tokens=False)
    tags = page(client_of(tmp_path), "/run/a/rollout?at=step_000001:0")
    assert "masked: env_error" in tags.text
    assert "the sandbox is gone" in tags.text
    assert "stored without its tokens" in tags.text
    answer = client_of(tmp_path).get("/run/a/tokens?at=step_000001:0")
    assert (answer.status_code, "tracking.save_tokens" in answer.json()["error"]) == (404, True)


def test_tokens_and_their_advantage(client: TestClient) -> None:
    told = client.get("/run/first/tokens?at=step_000002:3").json()
    assert "".join(told["texts"]) == "Where is the library?answer 3 of 2"
    assert (told["advantage"], told["group_mean"], told["reward"], told["norm"]) == (0.5, 0.5, 1.0, "mean")
    assert told["note"] == ""
    assert client.get("/run/first/tokens?at=eval_after:0").json()["advantage"] is None


def test_metrics_grow(tmp_path: Path) -> None:
    run, client = make_run(tmp_path / "a", finished=False), client_of(tmp_path)
    first = client.get("/api/metrics?run=a").json()
    assert [row["step"] for row in first["rows"] if row["stage"] == "grpo"] == [1, 2, 3]
    assert client.get("/api/metrics", params={"run": "a", "cursor": first["cursor"]}).json()["rows"] == []
    run.log_metrics("grpo", 4, metrics(4))
    second = client.get("/api/metrics", params={"run": "a", "cursor": first["cursor"]}).json()
    assert [row["step"] for row in second["rows"]] == [4]
    (line,) = client.get("/api/runs").json()
    assert (line["state"], line["steps"], line["before"], line["after"]) == ("running", "4 / 3", "0.000", "–")


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("/run/gone", 404, "no run 'gone'"),
        ("/run/..%2f..%2fetc", 404, ""),
        ("/run/%2e%2e", 404, ""),
        ("/run/..%5csecret", 404, "no run"),
        ("/run/first%00", 404, "no run"),
        ("/run/no%20run", 404, "no run"),
        ("/run/first?file=../../secret", 404, "no trajectories"),
        ("/run/first?file=stages/../../../secret", 404, "no trajectories"),
        ("/run/first/rollout?at=../../secret:0", 404, "no trajectories"),
        ("/run/first/rollout?at=eval_after:99", 404, "no rollout in line 100"),
        ("/run/first/rollout?at=eval_after:-1", 404, "names no rollout"),
        ("/run/first/rollout", 404, "no trajectories"),
        ("/run/first/tokens?at=eval_after:0&start=x", 400, "start='x'"),
        ("/run/first/tokens?at=eval_after:0&segment=7", 404, "no segment 7"),
        ("/run/first?low=much", 400, "low='much': must be a number"),
        ("/run/first?page=-1", 400, "page='-1'"),
        ("/api/metrics?run=../first", 404, "no run"),
        ("/static/../server.py", 404, ""),
        ("/static/..%2fserver.py", 404, ""),
        ("/nothing", 404, "Not Found"),
    ],
)
def test_what_is_not_there(client: TestClient, url: str, status: int, said: str) -> None:
    answer = client.get(url)
    assert answer.status_code == status
    assert said in html.unescape(answer.text)
    assert 'secret": 1' not in answer.text
    assert "uvicorn" not in answer.text


def test_only_reading(client: TestClient) -> None:
    for method in ("post", "put", "delete", "patch"):
        assert getattr(client, method)("/run/first").status_code == 405


@pytest.mark.parametrize(("host", "status"), [
    ("127.0.0.1:8421", 200), ("localhost:8421", 200), ("[::1]:8421", 200), ("evil.example", 400),
    ("127.0.0.1.evil.example", 400), ("", 400),
])  # fmt: skip
def test_other_hosts_are_not_answered(client: TestClient, host: str, status: int) -> None:
    """Against DNS rebinding: a page elsewhere whose name is made to point here."""
    assert client.get("/", headers={"host": host}).status_code == status


def test_headers_on_every_answer(client: TestClient) -> None:
    for url in ("/", "/run/first", "/api/runs", "/static/view.css", "/static/palette.css", "/nothing"):
        headers = client.get(url).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def test_what_a_policy_writes_is_never_markup(tmp_path: Path) -> None:
    name = "<b>run & 'co'"
    run = make_run(tmp_path / name, steps=1)
    made = rollout("x-0-0", HOSTILE, HOSTILE, answer=HOSTILE, thinking=HOSTILE, prompt=HOSTILE, failure=HOSTILE)
    made.failure_detail, made.counts, made.reward_parts = HOSTILE, {HOSTILE: 1}, {HOSTILE: 1.0, f"score/{HOSTILE}": 1.0}
    made.messages[0]["tools"] = [{"name": HOSTILE, "description": HOSTILE}]
    made.messages[2]["tool_calls"] = [{"name": HOSTILE, "arguments": {HOSTILE: HOSTILE}}]
    made.messages[3]["role"] = HOSTILE
    made.messages[4]["parse_error"] = HOSTILE
    run.log_trajectories("step_000001", [made])
    client = client_of(tmp_path)
    harmless = page(client, "/run/" + "%3Cb%3Erun%20%26%20'co'?file=eval_after")
    own = "details summary article aside h1 h2 h3 pre section small mark noscript table code"
    allowed = {tag for tag, _ in harmless.elements} | set(own.split())
    query = {"file": "step_000001", "text": HOSTILE[:40], "family": HOSTILE, "stop": "answered", "failure": HOSTILE}
    urls = [
        "/run/%3Cb%3Erun%20%26%20'co'",
        "/run/%3Cb%3Erun%20%26%20'co'/rollout?at=step_000001:0",
        "/?run=" + HOSTILE[:40],
    ]
    for url in urls:
        answer = client.get(url, params=None if "?" in url else query)
        assert answer.status_code == 200, answer.text
        tags = Tags(answer.text)
        assert {tag for tag, _ in tags.elements} <= allowed | {"html", "head", "body"}
        assert not [a for _, attributes in tags.elements for a in attributes if a.startswith("on") or a == "style"]
        assert all(src.startswith("/static/") for src in tags.values("script", "src"))
        assert all(src for t, a in tags.elements if t == "script" for src in [a.get("src")])
        assert "49" not in re.findall(r"\{\{ 7 \* 7 \}\}|49\u202e", tags.text)
        if "rollout" in url:
            assert tags.text.count(readable(HOSTILE)) >= 10
    error = Tags(client.get("/run/" + "%3Cscript%3Ealert(1)%3C%2fscript%3E").text)
    assert [t for t, a in error.elements if t == "script" and "src" not in a] == []
    told = client.get("/run/%3Cb%3Erun%20%26%20'co'/tokens?at=step_000001:0")
    assert told.headers["content-type"] == "application/json"
