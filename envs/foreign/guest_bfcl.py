"""Runs inside the sandbox: the simulated systems of one multi-turn row of BFCL, the calls made so far, and the verdict.

Given to ``Sandbox.run_python`` as text; never imported by the toolkit. ``/mnt/bfcl_eval`` is the user's package. The
job, JSON on standard input: ``classes`` (name, module), ``config``, ``long``, ``turns`` (calls by turn, each a name and
arguments) and ``truth`` (null, or right calls by turn as source text). One line of JSON goes out: ``results`` of the
calls by turn, and with ``truth`` ``wrong``, null where all turns are right.

A turn with right calls is right when there were calls in it, all systems are then in the state that the right calls
lead to, and every result of the right calls was seen in this turn or before, in any order.
"""

import copy
import importlib
import inspect
import json
import os
import sys
from collections import Counter
from typing import Any


def systems(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(systems by name, their public methods by name)."""
    made, methods = {}, {}
    for name, module in job["classes"]:
        system = getattr(importlib.import_module(module), name)()
        if hasattr(system, "_load_scenario"):
            system._load_scenario(copy.deepcopy(job["config"].get(name, {})), long_context=job["long"])
        made[name] = system
        found = inspect.getmembers(system, predicate=inspect.ismethod)
        methods.update({key: method for key, method in found if not key.startswith("_")})
    return made, methods


def said(run: Any) -> str:
    try:
        value = run()
    except Exception as error:
        return f"Error during execution: {error}"
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        try:
            return json.dumps(value)
        except (TypeError, ValueError):
            return str(value)
    return str(value)


def differing(mine: dict[str, Any], right: dict[str, Any]) -> str | None:
    for name, system in right.items():
        for key, value in vars(system).items():
            if not key.startswith("_") and getattr(mine[name], key, None) != value:
                return f"{name}.{key}"
    return None


def main() -> None:
    job = json.loads(sys.stdin.buffer.read())
    channel = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # systems may print
    sys.path.insert(0, "/mnt")
    mine, methods = systems(job)
    right, right_methods = systems(job) if job["truth"] is not None else ({}, {})
    results: list[list[str]] = []
    seen: list[str] = []
    wrong = None
    for number in range(max(len(job["turns"]), len(job["truth"] or ()))):
        calls = job["turns"][number] if number < len(job["turns"]) else []
        now = [said(lambda call=call: methods[call["name"]](**call["arguments"])) for call in calls]
        results.append(now)
        seen += now
        truth = job["truth"][number] if job["truth"] is not None else []
        told = [said(lambda text=text: eval(text, {"__builtins__": {}}, right_methods)) for text in truth]
        if not truth or wrong is not None:
            continue
        missing = list((Counter(told) - Counter(seen)).elements())
        if not calls:
            wrong = f"turn {number}: no call"
        elif (where := differing(mine, right)) is not None:
            wrong = f"turn {number}: {where} is not as it should be"
        elif missing:
            wrong = f"turn {number}: {missing[0][:200]} was not seen"
    os.write(channel, json.dumps({"results": results, "wrong": wrong}).encode() + b"\n")


main()
