"""A folder like that of bfcl-eval, with 24 rows of each of three categories, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PLAY = {
    "name": "music.play",
    "description": "Play an artist.",
    "parameters": {
        "type": "dict",
        "properties": {
            "artist": {"type": "string", "description": "who"},
            "minutes": {"type": "float"},
            "loud": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "place": {"type": "dict", "properties": {"room": {"type": "string"}}},
        },
        "required": ["artist"],
    },
}
ANSWER = {"music.play": {"artist": ["Maroon 5"], "minutes": [15, 15.5, ""], "loud": [True, ""], "tags": [["a-b"], ""],
                         "place": [{"room": ["Hall", "hall 1"]}, ""]}}  # fmt: skip
SYSTEM = """
class TicketAPI:
    def __init__(self):
        self.tickets, self._count = [], 0

    def _load_scenario(self, config, long_context=False):
        self.tickets = list(config.get("tickets", []))

    def open_ticket(self, title, urgent=False):
        self.tickets.append({"title": title, "urgent": urgent})
        return {"id": len(self.tickets)}

    def count(self):
        return len(self.tickets)

    def wait(self, seconds):
        while True:
            pass
"""


def function(name: str, required: list[str], **properties: str) -> dict[str, Any]:
    parameters = {"type": "dict", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"name": name, "description": name, "parameters": {**parameters, "required": required}}


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def make_package(top: Path) -> Path:
    """``top``, with ``bfcl_eval`` in it."""
    data, code = top / "bfcl_eval" / "data", top / "bfcl_eval" / "eval_checker" / "multi_turn_eval"
    (data / "possible_answer").mkdir(parents=True)
    (data / "multi_turn_func_doc").mkdir()
    (code / "func_source_code").mkdir(parents=True)
    for folder in (code / "func_source_code", code, code.parent, top / "bfcl_eval"):
        (folder / "__init__.py").write_text("")
    (code / "func_source_code" / "ticket_api.py").write_text(SYSTEM)
    docs = [
        function("open_ticket", ["title"], title="string", urgent="boolean"),
        function("count", []),
        function("wait", ["seconds"], seconds="integer"),
    ]
    write(data / "multi_turn_func_doc" / "ticket_api.json", docs)
    rows: dict[str, list[dict[str, Any]]] = {}
    answers: dict[str, list[dict[str, Any]]] = {}
    for n in range(24):
        one = {"question": [asked(f"Play Maroon 5, please ({n}).")], "function": [PLAY]}
        rows.setdefault("parallel", []).append({"id": f"parallel_{n}", **one})
        other = {"music.play": {"artist": [f"Muse {n}"], "minutes": [2]}}
        bad = {"music.play": {"artist": []}}
        truth = [ANSWER, bad] if n == 3 else [ANSWER, other]
        answers.setdefault("parallel", []).append({"id": f"parallel_{n}", "ground_truth": truth})
        rows.setdefault("irrelevance", []).append({"id": f"irrelevance_{n}", **one})
        dialogue = {
            "id": f"multi_turn_miss_func_{n}",
            "question": [asked(f"Open a ticket {n}."), [], asked("How many are there?")],
            "initial_config": {"TicketAPI": {"tickets": [{"title": "old", "urgent": False}]}},
            "involved_classes": ["TicketAPI"],
            "missed_function": {"1": ["open_ticket"]},
        }
        rows.setdefault("multi_turn_miss_func", []).append(dialogue)
        calls = [[], [f"open_ticket('broken {n}', urgent=True)"], ["count()"]]
        told = {"id": dialogue["id"], "ground_truth": calls}
        answers.setdefault("multi_turn_miss_func", []).append(told)
    for category, found in rows.items():
        write(data / f"BFCL_v4_{category}.json", found)
    for category, found in answers.items():
        write(data / "possible_answer" / f"BFCL_v4_{category}.json", found)
    return top


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
