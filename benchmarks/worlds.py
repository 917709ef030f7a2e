"""Worlds in figures: how many environments differ, what is rejected, who is paid, how alike the texts are.

    python -m benchmarks.worlds --page docs/worlds.md              all of it, into the page's measured part
    python -m benchmarks.worlds --environments 200 --audit 0       counts alone, printed
    python -m benchmarks.worlds --environments 0 --audit 500       oracle, nothing, random tools, cheats

An environment is certified when one of its goals, drawn at random, gave a task that passed every check of
``envs.agent.grammar.trial`` (levels 1 to 4 in turn), and each of its tools could be called with what the request and
other tools say.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from envs.agent.grammar.conditions import Constraint
from envs.agent.grammar.court import answer_fields
from envs.agent.grammar.grammar_case import GrammarCase, offered_by
from envs.agent.grammar.signature import Signature, signature_of
from envs.agent.grammar.structure import structure_of
from envs.agent.grammar.taskset import WorldsTaskset, attempts
from envs.agent.grammar.trial import unreachable
from envs.cheats import ARGUMENTS, answering, answers_for, calling
from envs.environment import Environment
from envs.episode import Actor, play_episode
from envs.scripted import give_up, random_calls
from envs.taskset import MAX_ORACLE_TURNS
from envs.types import Message, Task, ToolCall

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
SHINGLE, ALIKE = 5, 0.8


def certify(number: int) -> tuple[int, Counter[str], str | None, float]:
    """(environment, what became of its tries, the goal that gave a task or None, CPU seconds)."""
    began, rng = time.process_time(), random.Random(f"certify {number}")
    goal, tries = rng.choice(structure_of(number).goals), Counter[str]()
    for metadata, problem in attempts(number, goal, 1 + number % 4, rng):
        if problem is not None:
            tries[problem[0]] += 1
            continue
        if unreachable(GrammarCase(metadata)) is not None:
            tries["tool_unreachable"] += 1
            return number, tries, None, time.process_time() - began
        tries["kept"] += 1
        return number, tries, goal, time.process_time() - began
    return number, tries, None, time.process_time() - began


def counts(numbers: int, workers: int) -> dict[str, Any]:
    """Environments certified, and how many of them differ, by every measure."""
    with ProcessPoolExecutor(workers) as pool:
        done = list(pool.map(certify, range(numbers), chunksize=20))
    kept = [number for number, _, goal, _ in done if goal is not None]
    signatures = [signature_of(number) for number in kept]
    tries = sum((tried for _, tried, _, _ in done), Counter[str]())
    parts = ("form", "core", "tables", "core_tables", "tools", "core_tools", "rules")
    return {
        "environments drawn": numbers,
        "certified": len(kept),
        "domains": len({structure_of(number).domain.name for number in kept}),
        "goals": dict(Counter(goal for _, _, goal, _ in done if goal is not None)),
        "tries": dict(tries.most_common()),
        "environments a CPU second": round(len(kept) / sum(seconds for _, _, _, seconds in done), 1),
        "distinct": {part: len({getattr(signature, part) for signature in signatures}) for part in parts},
        "all three parts differ": apart(signatures),
        "rule kinds and forms": len({(part.kind, part.form) for number in kept for part in _parts(number)}),
        "tools": _spread([len(offered_by(number)) for number in kept]),
        "tables": _spread([len(structure_of(number).schema) for number in kept]),
        "rules": _spread([len(structure_of(n).rules) + len(structure_of(n).prices) for n in kept]),
    }


def _parts(number: int) -> tuple[Constraint, ...]:
    return (*structure_of(number).rules, *structure_of(number).prices)


def apart(signatures: Iterable[Signature]) -> int:
    """Environments, chosen one after the other, of which no two share core tables, core tools or rules."""
    seen: tuple[set[str], set[str], set[str]] = (set(), set(), set())
    chosen = 0
    for signature in signatures:
        parts = (signature.core_tables, signature.core_tools, signature.rules)
        if all(part not in known for part, known in zip(parts, seen, strict=True)):
            chosen += 1
            for part, known in zip(parts, seen, strict=True):
                known.add(part)
    return chosen


def audit(tasks: Sequence[Task], taskset: WorldsTaskset) -> dict[str, Any]:
    """Mean outcome by who plays, and every cheat that was paid."""
    outcomes: dict[str, list[float]] = defaultdict(list)
    paid: Counter[str] = Counter()
    turns = []
    for task in tasks:
        environment = taskset.environment(task)
        episode, scores = play_episode(task, environment, environment.oracle, MAX_ORACLE_TURNS)
        outcomes["oracle"].append(scores["outcome"])
        turns.append(episode.turns)
        outcomes["nothing"].append(_played(task, taskset, lambda e: give_up()))
        outcomes["random tools"].append(_played(task, taskset, lambda e, t=task: random_calls(e, random.Random(t.id))))
        outcomes["guesses of the right form"].append(_played(task, taskset, lambda e, t=task: guess(t)))
        for name, text in answers_for(task):
            outcomes["cheats"].append(_played(task, taskset, lambda e, text=text: answering(text)))
            paid[name] += outcomes["cheats"][-1] > 0
        for name, text in ARGUMENTS:
            outcomes["cheats"].append(_played(task, taskset, lambda e, text=text: calling(e, text)))
            paid[name] += outcomes["cheats"][-1] > 0
    return {
        "outcomes": {name: (len(all_), round(statistics.mean(all_), 4)) for name, all_ in outcomes.items()},
        "cheats paid": {name: n for name, n in paid.items() if n},
        "turns of the oracle": _spread(turns),
    }


def guess(task: Task) -> Actor:
    """Knows the data and the forms, and takes a candidate at random with its right total; of an audit, records."""
    case, rng = GrammarCase(task.metadata), random.Random(f"guess {task.id}")
    said = iter(_guessed(case, rng))
    return lambda history: next(said, Message("assistant", "Done."))


def _guessed(case: GrammarCase, rng: random.Random) -> Iterator[Message]:
    brief, offered = case.brief, case.offered
    facts = case.facts(lambda name, arguments: None)

    def call(key: str, **roles: Any) -> Message:
        operation = offered[key]
        return Message("assistant", tool_calls=(ToolCall(operation.name, operation.shown(**roles)),))

    def submit(result: Any) -> Message:
        return Message("assistant", tool_calls=(ToolCall("submit_result", {"result": result}),))

    if brief.goal == "tally":
        yield submit(rng.randrange(100, 20000))
        return
    if brief.goal == "audit":
        for row in case.start.rows["record"]:
            if (row["status"], row["day"]) == ("active", brief.day) and rng.random() < 0.5:
                yield call("record.cancel", record=row["id"])
        return
    every = case.court.candidates(())
    chosen = rng.sample(every, brief.count)
    case.court.close()
    item, total = answer_fields(case.structure, brief.goal)
    shown = [facts.naming.show_value("item", row["id"]) for row in chosen]
    if brief.goal in ("pick", "plan"):
        yield submit({item: shown[0] if brief.goal == "pick" else shown, total: sum(row["total"] for row in chosen)})
        return
    if brief.own is not None:
        yield call("record.cancel", record=brief.own[0])
    client = next(row["id"] for row in case.start.rows["client"] if row["name"] == brief.client)
    yield call("record.create", client=client, item=chosen[0]["id"], day=brief.day, quantity=brief.quantity,
               total=chosen[0]["total"])  # fmt: skip
    if "record.confirm" in offered:
        yield call("record.confirm", record=max(row["id"] for row in case.start.rows["record"]) + 1)


def _played(task: Task, taskset: WorldsTaskset, actor_of: Any) -> float:
    environment = taskset.environment(task)
    late: list[Actor] = []

    def act(history: Any) -> Message:
        if not late:
            late.append(_actor(actor_of, environment))
        return late[0](history)

    return play_episode(task, environment, act, 40)[1]["outcome"]


def _actor(actor_of: Any, environment: Environment) -> Actor:
    made: Actor = actor_of(environment)
    return made


def likeness(texts: Sequence[str]) -> dict[str, Any]:
    """How many requests have another one that is equal, or shares most of its five-word pieces; as they are, and with
    names and numbers masked."""
    masked = [re.sub(r"\b[A-Z][a-z]+\b|\d+", "_", text) for text in texts]
    return {"as they are": _alike(texts), "names and numbers masked": _alike(masked)}


def _alike(texts: Sequence[str]) -> dict[str, Any]:
    pieces = [_pieces(text) for text in texts]
    where: dict[int, list[int]] = defaultdict(list)
    best = [0.0] * len(texts)
    for number, own in enumerate(pieces):
        shared = Counter(other for piece in own for other in where[piece])
        for other, count in shared.items():
            score = count / (len(own) + len(pieces[other]) - count)
            best[number], best[other] = max(best[number], score), max(best[other], score)
        for piece in own:
            where[piece].append(number)
    equal = len(texts) - len(set(texts))
    return {
        "texts": len(texts), "equal to an earlier one": equal,
        f"share {ALIKE:.0%} or more with another": sum(score >= ALIKE for score in best),
        "median of the largest share": round(statistics.median(best), 2),
    }  # fmt: skip


def _pieces(text: str) -> frozenset[int]:
    words = text.split()
    return frozenset(hash(tuple(words[i : i + SHINGLE])) for i in range(max(1, len(words) - SHINGLE + 1)))


def samples(tasks: Sequence[Task], count: int) -> str:
    """Tasks of different goals and domains, as they are read."""
    chosen: list[Task] = []
    seen = Counter[str]()
    for task in tasks:
        about = task.metadata["goal"]
        if seen[about] < -(-count // 6) and task.metadata["category"] not in seen and len(chosen) < count:
            chosen.append(task)
            seen.update((about, task.metadata["category"]))
    parts = []
    for task in chosen:
        case = GrammarCase(task.metadata)
        parts.append(
            f"**{task.metadata['category']}, {task.metadata['goal']}, level {task.metadata['level']}** "
            f"({len(case.tools)} tools, {len(case.structure.schema)} tables)\n\n```text\n"
            + "\n\n".join(_wrapped(message.content) for message in task.prompt)
            + f"\n\ntools: {_wrapped(', '.join(case.tools))}\n```"
        )
    return "\n\n".join(parts)


def _wrapped(text: str) -> str:
    return "\n".join("\n".join(textwrap.wrap(line, 112)) for line in text.split("\n"))


def _spread(values: Sequence[int]) -> str:
    return f"{min(values)} to {max(values)}, median {statistics.median(values):g}" if values else "none"


def report(environments: int, tasks: int, texts: int, shown: int, workers: int) -> str:
    """All figures as Markdown."""
    parts = []
    if environments:
        parts.append(_listed("Environments", counts(environments, workers)))
    taskset = WorldsTaskset(seed=1)
    began = time.process_time()
    made = [taskset.task(index) for index in range(max(tasks, texts, 60 if shown else 0))]
    if made:
        seconds = time.process_time() - began
        rejects = sum((Counter(task.metadata["rejects"]) for task in made), Counter[str]())
        rounds = dict(sorted(Counter(task.metadata["round"] for task in made).items()))
        parts.append(_listed("Tasks", {
            "made": len(made), "a CPU second": round(len(made) / seconds, 1), "rejected on the way":
            dict(rejects.most_common()), "rounds of raising": rounds,
            "different keys": len({task.metadata["key"] for task in made}),
        }))  # fmt: skip
    if tasks:
        parts.append(_listed("Who is paid", audit(made[:tasks], taskset)))
    if texts:
        parts.append(_listed("Likeness of the requests", likeness([t.prompt[1].content for t in made[:texts]])))
    if shown:
        parts.append(f"### Samples\n\nThe first of the training split with seed 1.\n\n{samples(made, shown)}")
    return "\n\n".join(parts)


def _listed(title: str, figures: dict[str, Any]) -> str:
    lines = [f"### {title}", "", "| figure | value |", "|---|---|"]
    for name, value in figures.items():
        lines += [f"| {name}: {key} | {_cell(one)} |" for key, one in value.items()] if isinstance(value, dict) else [
            f"| {name} | {_cell(value)} |"]  # fmt: skip
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items()) or "none"
    if isinstance(value, tuple):
        return f"{value[1]:g} over {value[0]:,} episodes"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=int, default=2400)
    parser.add_argument("--audit", type=int, metavar="N", default=500)
    parser.add_argument("--texts", type=int, metavar="N", default=2000)
    parser.add_argument("--samples", type=int, metavar="N", default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--page", type=Path, help="write between the page's marks instead of printing")
    options = parser.parse_args(argv)
    text = report(options.environments, options.audit, options.texts, options.samples, options.workers)
    if options.page is None:
        print(text)
        return
    page = options.page.read_text(encoding="utf-8")
    front, _, rest = page.partition(BEGIN)
    behind = rest.partition(END)[2]
    options.page.write_text(f"{front}{BEGIN}\n\n{text}\n\n{END}{behind}", encoding="utf-8")


if __name__ == "__main__":
    main()
