"""What the hard search tier is worth: supply, accepted share, rejects by reason, and what idle policies score.

    python -m benchmarks.wiki_search made=5000 verified=2000 played=500 idle=200 samples=10

Times are CPU seconds of one process, so that other work on the machine changes them little.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Sequence

from envs.check import parse_settings
from envs.episode import play_episode
from envs.search.wiki import WikiTaskset, articles_of
from envs.search.wiki_answers import is_right
from envs.search.wiki_clues import describe
from envs.search.wiki_corpus import corpus
from envs.search.wiki_index import wiki_index
from envs.search.wiki_judges import JUDGES
from envs.search.wiki_links import link_graph
from envs.search.wiki_paths import Edge, asks, edges, reverse_edges
from envs.search.wiki_questions import starts
from envs.types import Message, Task, ToolCall


def main(argv: Sequence[str] | None = None) -> None:
    wanted = {"made": 5000, "verified": 2000, "played": 500, "idle": 200, "samples": 10, "supply": 1}
    wanted.update(parse_settings(sys.argv[1:] if argv is None else argv))
    _preparation()
    taskset = WikiTaskset()
    taskset.task(0)
    started = time.process_time()
    tasks = [taskset.task(index) for index in range(wanted["made"])]
    seconds = time.process_time() - started
    keys = {task.metadata["key"] for task in tasks}
    _say(f"made: {len(tasks)} tasks, {len(tasks) / seconds:.0f} tasks/s; {len(tasks) - len(keys)} keys made before")
    kept = _verified(taskset, tasks[: wanted["verified"]])
    _played(taskset, kept, wanted["played"], wanted["idle"])
    for task in random.Random(0).sample(kept, min(wanted["samples"], len(kept))):
        _say(f"level {task.metadata['level']} {task.metadata['shape']}: {task.prompt[-1].content} -> {task.answer}")
    if wanted["supply"]:
        _supply()


def _preparation() -> None:
    for name, make in (("corpus", corpus), ("index", wiki_index), ("links", link_graph)):
        started = time.process_time()
        made = make()
        _say(f"{name}: {time.process_time() - started:.2f} s{f', {len(made)} articles' if name == 'corpus' else ''}")  # type: ignore[arg-type]
    _say(f"links: {sum(map(len, link_graph().links))}, mentions: {sum(map(len, link_graph().mentions))}")
    queries = [article.description for article in corpus().articles[::10] if article.description]
    started = time.process_time()
    for query in queries:
        wiki_index().search(query)
    _say(f"query: {(time.process_time() - started) / len(queries) * 1000:.2f} ms with lines shown")


def _verified(taskset: WikiTaskset, tasks: list[Task]) -> list[Task]:
    taskset.verify(tasks[0])
    started = time.process_time()
    reasons = [taskset.verify(task) for task in tasks]
    seconds = time.process_time() - started
    kept = [task for task, reason in zip(tasks, reasons, strict=True) if reason is None]
    _say(f"verified: {len(tasks)} tasks, {len(tasks) / seconds:.0f} tasks/s; kept {len(kept) / len(tasks):.3f}")
    _say(f"reasons: {dict(Counter(reason or 'kept' for reason in reasons).most_common())}")
    _say(f"kept keys: {len({task.metadata['key'] for task in kept})} of {len(kept)}")
    for name, judge in JUDGES.items():
        right = sum(_is_fooled(judge, task) for task in tasks)
        _say(f"  {name} alone is right on {right / len(tasks):.3f}")
    shares: dict[tuple[int, int, str], list[bool]] = {}
    for task, reason in zip(tasks, reasons, strict=True):
        shape = (task.metadata["depth"], task.metadata["breadth"], task.metadata["shape"])
        shares.setdefault(shape, []).append(reason is None)
    for shape, values in sorted(shares.items()):
        _say(f"  depth {shape[0]} breadth {shape[1]} {shape[2]}: kept {sum(values)} of {len(values)}")
    relations = Counter(task.metadata["steps"][-1]["relation"] for task in kept)
    _say(f"last relation of the kept: {dict(relations.most_common())}")
    return kept


def _is_fooled(judge, task: Task) -> bool:  # type: ignore[no-untyped-def]
    guesses = judge(task.prompt[-1].content, task.metadata)
    return any(is_right(guess, task.metadata["accepted"]) for guess in guesses)


def _played(taskset: WikiTaskset, kept: list[Task], number: int, idle: int) -> None:
    turns, right = [], 0.0
    for task in kept[:number]:
        environment = taskset.environment(task)
        episode, scores = play_episode(task, environment, environment.oracle, max_turns=64)
        turns.append(episode.turns)
        right += scores["outcome"]
    _say(f"oracle: {right:g} of {len(turns)}, {min(turns)} to {max(turns)} turns, mean {sum(turns) / len(turns):.1f}")
    for name, actor in (("do nothing", _nothing), ("random tools", _random_tools)):
        outcomes = []
        for task in kept[:idle]:
            rng = random.Random(task.id)
            environment = taskset.environment(task)
            scores = play_episode(task, environment, lambda history, r=rng, a=actor: a(history, r))[1]  # type: ignore[misc]
            outcomes.append((scores["outcome"], scores["opened"]))
        means = [sum(values) / len(values) for values in zip(*outcomes, strict=True)]
        _say(f"{name}: outcome {means[0]:.3f}, opened {means[1]:.3f} over {len(outcomes)}")


def _nothing(history: Sequence[Message], rng: random.Random) -> Message:
    return Message("assistant", "I do not know.")


def _random_tools(history: Sequence[Message], rng: random.Random) -> Message:
    """Calls tools with words that it has seen, and after a few calls answers with some of them."""
    words = [word.strip(".,:;[]?()") for message in history[1:] for word in message.content.split()]
    some = " ".join(rng.sample(words, min(len(words), rng.randint(1, 3))))
    results = [message.content for message in history if message.role == "tool"]
    if len(results) >= 8:
        return Message("assistant", some)
    numbers = [line[1:].split("]")[0] for result in results for line in result.splitlines() if line.startswith("[")]
    name = rng.choice(("search", "open", "find"))
    arguments = {"search": {"query": some}, "find": {"text": some}, "open": {"article": rng.choice(numbers or ["1"])}}
    return Message("assistant", tool_calls=(ToolCall(name, arguments[name]),))


def _supply() -> None:
    """How many chains of each depth there are in train: walks from described starts to allowed ends."""
    allowed = articles_of("train")
    begin = [number for number in starts(allowed) if describe(number) is not None]
    _say(f"starts in train: {len(starts(allowed))} in the long tail, {len(begin)} with a description of their own")

    def may_end(edge: Edge) -> bool:
        return edge.stated_in in allowed and (edge.target is None or edge.target in allowed)

    ways = [sum(map(may_end, asks(number))) for number in range(len(corpus()))]
    for depth in range(1, 5):
        first = [
            ways[number] if depth == 1 else sum(ways[e.target] for e in edges(number) if e.target is not None)
            for number in begin
        ]
        _say(f"chains of depth {depth}: {sum(first)} from {sum(map(bool, first))} starts")
        if depth > 1:
            ways = [
                sum(ways[e.target] for e in (*edges(n), *reverse_edges(n)) if e.target is not None)
                for n in range(len(corpus()))
            ]


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
