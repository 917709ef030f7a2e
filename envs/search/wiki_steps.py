"""The gold path of a question as JSON: which article to open, how to find it, and the line that states the fact.

Each step has the line that proves it, so a path can be checked against the corpus alone; the oracle walks it with the
tools and says what the lines say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from envs.search.wiki_corpus import corpus
from envs.search.wiki_facts import value_in
from envs.search.wiki_paths import SAID_OF, SAME_YEAR, YEAR_OF, Edge, surface
from envs.search.wiki_questions import Question, amount
from envs.search.wiki_walks import Branch, query_of
from envs.types import ToolCall

START = "start"
Step = dict[str, Any]
Turn = tuple[tuple[ToolCall, ...], str]  # its calls, and what the last result before must show for them to be made


def steps_of(question: Question) -> list[Step]:
    return [step for number, branch in enumerate(question.branches) for step in _branch(number, branch)]


def _branch(number: int, branch: Branch) -> list[Step]:
    article = corpus().articles[branch.clue.article]
    line = article.lines[branch.clue.line]
    steps = [
        _step(number, article.title, START, None, article.title, True, line, _first_words(line), branch.clue.query)
    ]
    for edge in branch.path:
        if edge.since is not None:
            steps.append(_fact(number, edge.since))
        steps.append(_fact(number, edge) if edge.target is None else _leads(number, edge))
    return steps


def _leads(number: int, edge: Edge) -> Step:
    """A step to another article: by a line of its own, or by one of the article before."""
    title = corpus().articles[edge.stated_in].title
    if edge.relation == SAID_OF:
        assert edge.clause is not None
        assert edge.mention is not None
        found = edge.clause.text[edge.mention.start : edge.mention.end]
        step = _step(number, title, SAID_OF, edge.kind, edge.value, True, edge.text, found, query_of(edge))
    elif edge.since is not None:
        year = edge.since.value
        step = _step(number, title, SAME_YEAR, edge.kind, edge.value, True, edge.text, year, query_of(edge))
        step |= {"event": edge.event, "since": edge.since.relation}
    else:
        step = _step(number, title, edge.relation, edge.kind, edge.value, True, edge.text, surface(edge), "")
    return step | {"source": corpus().articles[edge.source].title}


def _fact(number: int, edge: Edge) -> Step:
    title = corpus().articles[edge.source].title
    step = _step(number, title, edge.relation, None, edge.value, False, edge.text, _until_a_digit(edge.text), "")
    if edge.relation == YEAR_OF and edge.clause is not None:
        step["before"] = " ".join(edge.clause.text.split()[-4:-1])
    return step


def _step(
    branch: int, article: str, relation: str, kind: str | None, value: str, is_title: bool, line: str, find: str,
    query: str,
) -> Step:  # fmt: skip
    return {
        "branch": branch, "article": article, "source": article, "relation": relation, "kind": kind, "value": value,
        "is_title": is_title, "line": line, "find": find, "query": query,
    }  # fmt: skip


def _first_words(line: str) -> str:
    return line[:40]


def _until_a_digit(line: str) -> str:
    """The first words of a line that say nothing of a value in it: up to its first digit."""
    for position, character in enumerate(line):
        if character.isdigit():
            return line[:position].strip() or line.split()[-1]
    return line[:40]


# -- walking it -------------------------------------------------------------------------------


def beginning_of_plan(metadata: Mapping[str, Any], results: int) -> list[Turn]:
    """The calls of each turn up to the answer: search where an article is not named by the one before, open, find."""
    plan: list[Turn] = []
    shown, here = "", None
    for step in metadata["steps"]:
        if step["query"]:
            plan.append(((ToolCall("search", {"query": step["query"], "top_k": results}),), shown))
            shown, here = f"] {step['article']}: ", None
        find = ToolCall("find", {"text": step["find"]})
        opened = () if here == step["article"] else (ToolCall("open", {"article": step["article"]}),)
        plan.append(((*opened, find), shown))
        shown, here = step["find"], step["article"]
    return plan


def read_answer(metadata: Mapping[str, Any], lines: Sequence[str]) -> str | None:
    """The answer by what ``find`` gave in each step; None when a line does not say what it should."""
    steps = metadata["steps"]
    last = [i for i, step in enumerate(steps) if i + 1 == len(steps) or steps[i + 1]["branch"] != step["branch"]]
    read = [value for i in last if (value := _read(lines[i], steps[i])) is not None]
    if len(read) < len(last):
        return None
    if metadata["shape"] == "between":
        return str(abs(int(read[0]) - int(read[1])))
    if metadata["shape"] == "compare":
        order = sorted(range(len(read)), key=lambda i: amount(read[i]))
        return str(steps[last[order[-1 if metadata["most"] else 0]]]["article"])
    return read[-1] if len(set(read)) == 1 else None


def _read(result: str, step: Step) -> str | None:
    """The value in the lines that ``find`` gave: the name there, or what the relation's rule reads."""
    for numbered in result.splitlines():
        line = numbered.partition(". ")[2]
        if step["is_title"]:
            if step["find"].casefold() in line.casefold():
                return str(step["value"] if step["query"] else step["find"])
        elif step["relation"] == YEAR_OF:
            if match := re.search(rf"{re.escape(step['before'])} (\d{{4}})", line):
                return match[1]
        elif (value := value_in(step["relation"], line)) is not None:
            return value
    return None
