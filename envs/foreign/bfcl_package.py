"""The user's own copy of bfcl-eval: its folder and its rows. It is read, and nothing of it is imported here.

folder = package_folder(None)                  # where pip has put it, or of a path that is given
rows(folder, "multi_turn_base")                # [{"id": "multi_turn_base_0", "question": …, "answer": …}, …]
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

VERSION = "2026.3.23"  # what this was run against
SINGLE = ("simple_python", "multiple", "parallel", "parallel_multiple", "live_simple", "live_multiple",
          "live_parallel", "live_parallel_multiple")  # fmt: skip
IRRELEVANCE = ("irrelevance", "live_irrelevance")
MULTI = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
CATEGORIES = (*SINGLE, *IRRELEVANCE, *MULTI)
REFUSED = {
    "simple_java": "its arguments are Java source",
    "simple_javascript": "its arguments are JavaScript source",
    "live_relevance": "any call is right, so calling at random is",
    "memory": "it needs a memory that lasts between conversations, and packages for searching it",
    "web_search": "it needs the network",
    "format_sensitivity": "it varies the written form of calls, which the chat format decides here",
}
# File of the functions of each simulated system of the multi-turn categories; its Python module has the same name
SYSTEMS = {
    "GorillaFileSystem": "gorilla_file_system", "MathAPI": "math_api", "MessageAPI": "message_api",
    "TwitterAPI": "posting_api", "TicketAPI": "ticket_api", "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking", "VehicleControlAPI": "vehicle_control",
}  # fmt: skip


def package_folder(given: str | Path | None) -> Path:
    """The folder ``bfcl_eval``. Raises ValueError that says how to get it."""
    how = f"pip install --no-deps --target bfcl bfcl-eval=={VERSION}, then env.package=bfcl"
    if given is None:
        spec = importlib.util.find_spec("bfcl_eval")
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"bfcl_eval is not installed: {how}")
        folder = Path(next(iter(spec.submodule_search_locations)))
    else:
        folder = next((f for f in (Path(given) / "bfcl_eval", Path(given)) if (f / "data").is_dir()), Path(given))
    if not (folder / "data").is_dir():
        raise ValueError(f"package={given}: there is no bfcl_eval with its data in it: {how}")
    return folder.absolute()


def check_categories(categories: object) -> tuple[str, ...]:
    """The categories, or ValueError for one that is not played, and why."""
    names = (categories,) if isinstance(categories, str) else tuple(categories)  # type: ignore[arg-type]
    for name in names:
        if name in REFUSED:
            raise ValueError(f"categories: {name} is not played: {REFUSED[name]}")
        if name not in CATEGORIES:
            raise ValueError(f"categories: {name!r} is unknown; use some of {', '.join(CATEGORIES)}")
    if not names:
        raise ValueError(f"categories is empty; use some of {', '.join(CATEGORIES)}")
    return tuple(dict.fromkeys(names))


def data_file(folder: Path, category: str, answers: bool = False) -> Path:
    """The file of a category. Raises ValueError where this version of the package has none."""
    place = folder / "data" / "possible_answer" if answers else folder / "data"
    found = [file for file in sorted(place.glob("*.json")) if re.fullmatch(rf"BFCL_v\d+_{category}\.json", file.name)]
    if len(found) != 1:
        raise ValueError(f"{place} has {len(found)} files of {category}, wanted one; this was run with {VERSION}")
    return found[0]


def rows(folder: Path, category: str) -> list[dict[str, Any]]:
    """The rows of a category, each with its ``answer`` (None: there is none)."""
    found = _lines(data_file(folder, category))
    if category in IRRELEVANCE:
        return [{**row, "answer": None} for row in found]
    answers = {row["id"]: row["ground_truth"] for row in _lines(data_file(folder, category, answers=True))}
    return [{**row, "answer": answers.get(row["id"])} for row in found]


def functions_of(folder: Path, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The functions of a multi-turn row, those that are missing at first included."""
    found = []
    for name in row["involved_classes"]:
        found += _lines(folder / "data" / "multi_turn_func_doc" / f"{SYSTEMS[name]}.json")
    return [function for function in found if function["name"] not in row.get("excluded_function", ())]


def digest(folder: Path, categories: tuple[str, ...]) -> str:
    """SHA-256 over the rows of categories, and over the systems that multi-turn rows need."""
    files = [data_file(folder, c) for c in categories]
    files += [data_file(folder, c, answers=True) for c in categories if c not in IRRELEVANCE]
    if set(categories) & set(MULTI):
        files += sorted((folder / "data" / "multi_turn_func_doc").glob("*.json"))
        files += sorted((folder / "eval_checker" / "multi_turn_eval" / "func_source_code").glob("*.py"))
    total = hashlib.sha256()
    for file in files:
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
