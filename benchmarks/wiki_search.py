"""What the hard search tier is worth: rejects by cause, balance, duplicates, what cheats and idle policies are paid.

    python -m benchmarks.wiki_search made=500 heldout=200 played=500 cheats=500
    python -m benchmarks.wiki_search built=data/search played=500    the rows of a build, held-out ones too
    python -m benchmarks.wiki_search page=50 out=docs/search_sample.md     only a page of questions to read

Times are CPU seconds of one process, so that other work on the machine changes them little.
"""

from __future__ import annotations

import random
import sys
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from envs.cheats import answering, answers_for
from envs.check import parse_settings
from envs.episode import play_episode
from envs.search.wiki import WikiTaskset
from envs.search.wiki_corpus import corpus
from envs.search.wiki_index import wiki_index
from envs.search.wiki_links import link_graph
from envs.search.wiki_phrases import phrase_of
from envs.types import Message, Task, ToolCall

SHINGLE = 5  # words
_WIDTH = 118  # characters of a line of the page
NEAR = 0.5  # two questions with so many shingles in common (of all that they have) are nearly the same


def main(argv: Sequence[str] | None = None) -> None:
    wanted: dict[str, Any] = {
        "made": 500, "heldout": 200, "played": 500, "cheats": 500, "page": 0, "out": "", "built": ""
    }  # fmt: skip
    wanted.update(parse_settings(sys.argv[1:] if argv is None else argv))
    if wanted["page"]:
        page(int(wanted["page"]), Path(str(wanted["out"])))
        return
    _preparation()
    taskset = WikiTaskset()
    if wanted["built"]:
        tasks, heldout = (_rows(str(wanted["built"]), split) for split in ("train", "heldout"))
    else:
        tasks, heldout = _made(taskset, wanted["made"]), _made(WikiTaskset("heldout"), wanted["heldout"])
    _balance(tasks)
    for shape, (number, pairs, supply) in sorted(supplies(tasks).items()):
        _say(f"{shape}: {number} tasks, {pairs} pairs with the same key, so about {supply:,.0f} keys drawn as often")
    _duplicates([task.prompt[-1].content for task in tasks])
    _contamination(tasks, heldout)
    _played(taskset, tasks[: wanted["played"]], tasks[: wanted["cheats"]])


def _preparation() -> None:
    for name, make in (("corpus", corpus), ("index", wiki_index), ("links", link_graph)):
        started = time.process_time()
        make()
        _say(f"{name}: {time.process_time() - started:.2f} s")
    started = time.process_time()
    WikiTaskset().task(0)
    _say(f"the rest until the first task is there: {time.process_time() - started:.2f} s")


def _made(taskset: WikiTaskset, number: int) -> list[Task]:
    reasons: Counter[str] = Counter()
    tasks: list[Task] = []
    started = time.process_time()
    for index in range(number):
        for task, reason in taskset.candidates(index):
            reasons[reason or "kept"] += 1
            if reason is None:
                tasks.append(task)
                break
    seconds = time.process_time() - started
    _say(f"{taskset.split}: {len(tasks)} tasks, {len(tasks) / seconds:.1f} tasks/s, verified; proposals:")
    _say(f"  {dict(reasons.most_common())}")
    _say(f"  {len({task.metadata['key'] for task in tasks})} different keys")
    return tasks


def _rows(path: str, split: str) -> list[Task]:
    import datasets

    from envs.factory.rows import task_of

    return [task_of(row) for row in datasets.load_from_disk(path)[split]]


def _balance(tasks: Sequence[Task]) -> None:
    for name in ("shape", "template"):
        counts = Counter(task.metadata[name] for task in tasks)
        most = ", ".join(f"{what} {count / len(tasks):.3f}" for what, count in counts.most_common(6))
        _say(f"{name}: {len(counts)} different; {most}")
    kinds = Counter(answer_type(task) for task in tasks)
    _say(f"answer types: {', '.join(f'{kind} {count / len(tasks):.3f}' for kind, count in kinds.most_common())}")
    answers = Counter(task.answer for task in tasks)
    _say(f"answers: {len(answers)} different; the most frequent {answers.most_common(3)}")
    _say(f"levels: {dict(sorted(Counter(task.metadata['level'] for task in tasks).items()))}")


def supplies(tasks: Sequence[Task]) -> dict[str, tuple[int, int, float]]:
    """Shape -> (tasks, pairs of them with the same key, how many keys there are by that). Of n draws from N keys that
    come equally often n (n - 1) / 2N pairs are the same; where some come more often there are more keys than this says.
    Without such a pair N is at least what one would give."""
    found = {}
    for shape in {task.metadata["shape"] for task in tasks}:
        keys = Counter(task.metadata["key"] for task in tasks if task.metadata["shape"] == shape)
        number, pairs = keys.total(), sum(count * (count - 1) // 2 for count in keys.values())
        found[shape] = (number, pairs, number * (number - 1) / 2 / max(pairs, 1))
    return found


def answer_type(task: Task) -> str:
    """Person, place, work, … by the article that is the answer; year or number."""
    article = corpus().find(str(task.answer))
    if task.metadata["shape"] == "between":
        return "number of years"
    is_title = task.metadata["shape"] == "compare" or task.metadata["steps"][-1]["is_title"]
    if article is None or not is_title:
        return "year" if str(task.answer).isdigit() and len(str(task.answer)) in (3, 4) else "number or symbol"
    phrase = phrase_of(article.number)
    return "person" if phrase is not None and phrase.person else article.topic


def _shingles(text: str) -> frozenset[str]:
    words = text.lower().split()
    return frozenset(" ".join(words[at : at + SHINGLE]) for at in range(len(words) - SHINGLE + 1))


def near(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of texts that share at least ``NEAR`` of their shingles (Jaccard)."""
    sets = [_shingles(text) for text in texts]
    having: dict[str, list[int]] = defaultdict(list)
    for number, shingles in enumerate(sets):
        common: Counter[int] = Counter(other for shingle in shingles for other in having[shingle])
        for other, count in common.items():
            if count / (len(shingles) + len(sets[other]) - count) >= NEAR:
                yield other, number
        for shingle in shingles:
            having[shingle].append(number)


def _duplicates(texts: Sequence[str]) -> None:
    later = {number for _, number in near(texts)}
    _say(
        f"near duplicates of an earlier question (shingles of {SHINGLE} words, {NEAR:g}): {len(later) / len(texts):.4f}"
    )


def _contamination(tasks: Sequence[Task], heldout: Sequence[Task]) -> None:
    documents = [
        {title for task in some for step in task.metadata["steps"] for title in (step["article"], step["source"])}
        for some in (tasks, heldout)
    ]
    keys = {task.metadata["key"] for task in tasks} & {task.metadata["key"] for task in heldout}
    texts = [task.prompt[-1].content for task in (*tasks, *heldout)]
    across = {two for one, two in near(texts) if one < len(tasks) <= two}
    _say(
        f"held-out against training: {len(documents[0] & documents[1])} documents, {len(keys)} keys, "
        f"{len(across)} near duplicates, of {len(heldout)} held-out tasks"
    )


def _played(taskset: WikiTaskset, tasks: Sequence[Task], cheated: Sequence[Task]) -> None:
    turns, right = [], 0.0
    for task in tasks:
        environment = taskset.environment(task)
        episode, scores = play_episode(task, environment, environment.oracle, max_turns=64)
        turns.append(episode.turns)
        right += scores["outcome"]
    _say(f"oracle: {right:g} of {len(turns)}, {min(turns)} to {max(turns)} turns, mean {sum(turns) / len(turns):.1f}")
    for name, actor in (("do nothing", _nothing), ("random tools", _random_tools)):
        outcomes = []
        for task in tasks:
            rng = random.Random(task.id)
            environment = taskset.environment(task)
            scores = play_episode(task, environment, lambda history, r=rng, a=actor: a(history, r))[1]  # type: ignore[misc]
            outcomes.append((scores["outcome"], scores["opened"]))
        means = [sum(values) / len(values) for values in zip(*outcomes, strict=True)]
        _say(f"{name}: outcome {means[0]:.3f}, opened {means[1]:.3f} over {len(outcomes)}")
    paid = played = 0
    for task in cheated:
        for _, text in answers_for(task):
            played += 1
            paid += play_episode(task, taskset.environment(task), answering(text))[1]["outcome"] > 0
    _say(f"cheats: {paid} paid of {played} texts over {len(cheated)} tasks")


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


def page(number: int, out: Path) -> None:
    """A page of the first ``number`` tasks of the training split, as they come: nothing is picked."""
    taskset = WikiTaskset()
    lines = [
        f"# {number} questions of the search family",
        "",
        f"The first {number} tasks of `env=wiki` (training split, seed 0), none left out, in the order in which a run",
        "gets them. Made by",
        "",
        "```bash",
        f"python -m benchmarks.wiki_search page={number} out={out.as_posix()}",
        "```",
        "",
        "Text of Wikipedia, CC BY-SA 4.0. How they are made: [datasheet](search.md).",
        "",
    ]
    for index in range(number):
        task = taskset.task(index)
        text = f"{index + 1}. {task.prompt[-1].content} → **{task.answer}** (level {task.metadata['level']})"
        lines += textwrap.wrap(text, _WIDTH, subsequent_indent="   ", break_on_hyphens=False)
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    _say(f"{out}: {number} questions")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
