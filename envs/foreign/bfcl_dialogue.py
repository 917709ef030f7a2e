"""Multi-turn rows of BFCL: simulated systems that calls change, driven in the sandbox.

    run = replay(folder, row, turns=[[("ls", {})]])                 # Replay(results=[["…"]], wrong=None)
    replay(folder, row, turns, truth=row["answer"]).wrong           # None: every turn is right

Every message plays all calls of the episode again in a fresh sandbox: a system is a function of its calls, no process
outlives a message, and what the package's code does with the policy's arguments stays in the sandbox.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from envs.foreign.bfcl_match import Call
from envs.foreign.bfcl_package import SYSTEMS
from envs.foreign.examined import RefusedError
from envs.sandbox import Limits, Sandbox, SandboxUnavailableError
from envs.sandbox.packages import package_mounts
from envs.syntax import expression

LIMITS = Limits(wall_s=20.0, cpu_s=10, memory_mb=512, output_bytes=4_000_000)
_GUEST = Path(__file__).with_name("guest_bfcl.py")
_CODE = "bfcl_eval.eval_checker.multi_turn_eval.func_source_code"


@dataclass(frozen=True)
class Replay:
    """``results`` by turn; ``wrong``: what is, or None. ``late``: the calls took too long."""

    results: list[list[str]]
    wrong: str | None = None
    late: bool = False


def replay(
    folder: Path, row: Mapping[str, Any], turns: Sequence[Sequence[Call]], truth: Sequence[Sequence[str]] | None = None
) -> Replay:
    """Play calls by turn from the beginning; with ``truth`` judge them. Raises RefusedError when the package's code
    fails."""
    job = {
        "classes": [(name, f"{_CODE}.{SYSTEMS[name]}") for name in row["involved_classes"]],
        "config": row.get("initial_config", {}),
        "long": "long_context" in row["id"],
        "turns": [[{"name": name, "arguments": dict(arguments)} for name, arguments in calls] for calls in turns],
        "truth": truth,
    }
    program = _GUEST.read_text(encoding="utf-8")
    result = Sandbox(LIMITS).run_python(program, json.dumps(job), mounts={"bfcl_eval": folder, **_beside()})
    if result.timed_out:
        return Replay([], "the calls took too long", late=True)
    try:
        told = json.loads(result.stdout.splitlines()[-1])
        return Replay(told["results"], told["wrong"])
    except (ValueError, IndexError, KeyError, TypeError) as error:
        lines = result.stderr.strip().splitlines()
        if result.exit_code < 0 or (lines and lines[-1].startswith("MemoryError")):
            return Replay([], "the calls ended the sandbox", late=True)
        raise RefusedError(f"its systems do not run: {lines[-1] if lines else 'they said nothing'}") from error


def calls_of(texts: Sequence[str], functions: Mapping[str, Mapping[str, Any]]) -> list[Call]:
    """Right calls, from their source. Raises RefusedError for one that is no plain call."""
    found = []
    for text in texts:
        try:
            node = expression(text.strip())
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                raise ValueError("it is no call of a function")
            names = list(functions[node.func.id]["parameters"]["properties"])
            given = dict(zip(names, map(ast.literal_eval, node.args), strict=False))
            given |= {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
        except (SyntaxError, ValueError, KeyError) as error:
            raise RefusedError(f"its right call {text!r:.100} cannot be made by the tools: {error}") from error
        found.append((node.func.id, json.loads(json.dumps(given))))
    return found


@cache
def _beside() -> dict[str, Path]:
    """What the systems import that is not Python's own."""
    try:
        return {inside.rpartition("/")[2]: Path(host) for host, inside in package_mounts(("mpmath",))}
    except SandboxUnavailableError:
        return {}  # then rows of MathAPI do not run, and are refused
