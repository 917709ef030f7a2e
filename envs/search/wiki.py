"""The hard tier of search: questions that take several articles of a real corpus; tools search, open and find.

    In which year was the Roman poet named in the article on the Latin narrative poem from 8 CE born?

    search("Latin narrative poem 8 CE")    [5731] Metamorphoses: The Metamorphoses is a Latin narrative poem …
    open("Metamorphoses"), find("Ovid")    … by the Roman poet Ovid …
    open("Ovid"), find("Roman poet")       Roman poet (43 BC – 17/18 AD)

The corpus is 10,033 English Wikipedia summaries from an installed package (``wiki_corpus``). Levels: depth (articles
to read one after the other) plus breadth (facts that identify the start) minus one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from envs.environment import Environment, ToolError, tool
from envs.search.wiki_answers import accepted_forms, is_right
from envs.search.wiki_corpus import PACKAGE, VERSION, Article, corpus
from envs.search.wiki_facts import value_in
from envs.search.wiki_index import wiki_index
from envs.search.wiki_judges import fooled
from envs.search.wiki_paths import MENTIONED_BY, surface
from envs.search.wiki_questions import Branch, Question, draw_shape, propose, query_of, says
from envs.taskset import Split, Taskset, split_of
from envs.types import Episode, Message, Task, ToolCall

SYSTEM = (
    "Answer the question with the tools. They search a library of encyclopedia articles; everything that a question "
    "asks for, and everything on the way to it, has an article of its own there. End with the answer alone: a name, "
    "a year, a date or a number."
)
# "depth x breadth": how often
WEIGHTS: dict[str, float] = {"1x2": 0.5, "2x1": 1, "2x2": 3, "2x3": 1, "3x1": 3, "3x2": 4, "3x3": 2, "4x1": 3, "4x2": 3}
_MAX_TRIES = 20_000
_PAGE_CHARS = 1600
_MAX_RESULTS = 10


class WikiEnvironment(Environment):
    """One question. Remembers which article is open, and which were."""

    def __init__(self, task: Task, **config: Any) -> None:
        super().__init__(task, **config)
        self._here: Article | None = None
        self._opened: set[str] = set()

    @tool
    def search(self, query: str, top_k: int = 5) -> str:
        """Search the articles by their words; gives ids, titles and a line of each.

        Args:
            top_k: 1 to 10
        """
        if not 1 <= top_k <= _MAX_RESULTS:
            raise ToolError(f"top_k is {top_k}, must be between 1 and {_MAX_RESULTS}.")
        hits = wiki_index().search(query, top_k)
        if not hits:
            raise ToolError("nothing found; use other words.")
        return "\n".join(f"[{hit.number}] {hit.title}: {hit.snippet}" for hit in hits)

    @tool
    def open(self, article: str, page: int = 1) -> str:
        """Open an article.

        Args:
            article: its id or title
        """
        found = corpus().find(article)
        if found is None:
            raise ToolError(f'there is no article "{article[:80]}"; give an id or title that search shows.')
        pages = _pages(found)
        if not 1 <= page <= len(pages):
            raise ToolError(f"{found.title} has {len(pages)} pages, there is no page {page}.")
        self._here = found
        self._opened.add(found.title)
        more = f"\n[page {page} of {len(pages)}]" if len(pages) > 1 else ""
        return f"[{found.number}] {found.title}\n{pages[page - 1]}{more}"

    @tool
    def find(self, text: str) -> str:
        """Find the lines of the open article that contain a text."""
        if self._here is None:
            raise ToolError("no article is open.")
        wanted = text.casefold().strip()
        if not wanted:
            raise ToolError("text is empty.")
        lines = [f"{i}. {line}" for i, line in enumerate(self._here.lines, 1) if wanted in line.casefold()]
        if not lines:
            raise ToolError(f'"{text[:80]}" is not in {self._here.title}.')
        return "\n".join(lines)

    def score(self, episode: Episode) -> dict[str, float]:
        """``outcome``: the answer is right. ``opened``: the share of the articles of the gold path that were opened."""
        gold = {step["article"] for step in self.task.metadata["steps"]}
        return {
            "outcome": float(is_right(episode.answer, self.task.metadata["accepted"])),
            "opened": len(gold & self._opened) / len(gold),
        }

    # -- the oracle knows which words find an article and which line to look for; what it says it has read ---------

    def oracle(self, history: Sequence[Message]) -> Message:
        results = [message.content for message in history if message.role == "tool"]
        turn = sum(message.role == "assistant" for message in history)
        plan = self._plan()
        if turn < len(plan):
            calls, must_show = plan[turn]
            if results and must_show.casefold() not in results[-1].casefold():
                return Message("assistant", "I could not find it.", reasoning=f"{must_show} is not there.")
            names = " and ".join(call.name for call in calls)
            return Message("assistant", reasoning=f"Next: {names}.", tool_calls=calls)
        called = [call.name for calls, _ in plan for call in calls]
        answer = self._read_answer(results, called)
        return Message("assistant", answer or "I could not find it.", reasoning="That is the answer.")

    def _plan(self) -> list[tuple[tuple[ToolCall, ...], str]]:
        """The calls of each turn, and what the last result before must show for them to be made."""
        plan: list[tuple[tuple[ToolCall, ...], str]] = []
        shown = ""
        for step in self.task.metadata["steps"]:
            if step["query"]:
                plan.append(((ToolCall("search", {"query": step["query"], "top_k": _MAX_RESULTS}),), shown))
                shown = f"] {step['article']}: "
            find = ToolCall("find", {"text": step["find"]})
            plan.append(((ToolCall("open", {"article": step["article"]}), find), shown))
            shown = step["find"]
        return plan

    def _read_answer(self, results: Sequence[str], calls: Sequence[str]) -> str | None:
        """What the lines say that ``find`` gave for the last fact of each branch."""
        steps = self.task.metadata["steps"]
        lines = [result for result, name in zip(results, calls, strict=True) if name == "find"]
        last = [i for i, step in enumerate(steps) if i + 1 == len(steps) or steps[i + 1]["branch"] != step["branch"]]
        read = [_read(lines[i], steps[i]) for i in last]
        if self.task.metadata["shape"] == "between":
            years = [int(value) for value in read if value is not None]
            return str(abs(years[0] - years[1])) if len(years) == 2 else None
        return read[-1] if all(read) else None


class WikiTaskset(Taskset):
    """Questions about the corpus. ``depth`` and ``breadth`` fix the shape; without them ``weights`` says how often
    which ("2x1": depth 2, breadth 1) is drawn.

    The key is the start and the facts along the walk. The articles, not the keys, are split: the start of a question,
    the article that states its answer and the article that is its answer all belong to the question's split, so
    training shares neither starts nor answers with what is held out.
    """

    family = "wiki"
    env_class = WikiEnvironment
    licence = "text of Wikipedia, CC BY-SA 4.0"
    packages = (PACKAGE,)

    def __init__(
        self,
        split: Split = "train",
        seed: int = 0,
        size: int | None = None,
        depth: int | None = None,
        breadth: int | None = None,
        weights: Mapping[str, float] | None = None,
        **config: Any,
    ) -> None:
        super().__init__(split, seed, size, **config)
        if depth is not None and not 1 <= depth <= 6:
            raise ValueError(f"depth is {depth}, must be between 1 and 6")
        if breadth is not None and not 1 <= breadth <= 4:
            raise ValueError(f"breadth is {breadth}, must be between 1 and 4")
        self.shapes = _shapes(dict(WEIGHTS if weights is None else weights), depth, breadth)
        corpus()  # says at once when the package is missing

    def task(self, index: int) -> Task:
        rng = self.rng(index)
        allowed = articles_of(self.split)
        depth, breadth = rng.choices(list(self.shapes), weights=list(self.shapes.values()))[0]
        shape = draw_shape(depth, breadth, rng)
        for _ in range(_MAX_TRIES):
            question = propose(rng, shape, depth, breadth, allowed)
            if question is not None:
                return self._task(index, question)
        raise RuntimeError(
            f"WikiTaskset: no question of depth={depth}, breadth={breadth} in {_MAX_TRIES} tries: use smaller ones"
        )

    def verify(self, task: Task) -> str | None:
        """Beyond the oracle: every supporting line is in its article, no step is said, every weak answerer is wrong."""
        metadata = task.metadata
        if metadata["corpus"] != f"{PACKAGE}=={VERSION}":
            return "other_corpus"
        for step in metadata["steps"]:
            if step["line"] not in corpus()[step["article"]].lines:
                return "no_support"
        if is_said(task):
            return "answer_in_question"
        if any(says(task.prompt[-1].content, step["value"]) for step in metadata["steps"]):
            return "step_in_question"
        return fooled(task.prompt[-1].content, metadata) or super().verify(task)

    def _task(self, index: int, question: Question) -> Task:
        is_title = question.shape != "between" and question.branches[-1].path[-1].target is not None
        metadata = {
            "key": question.key,
            "level": question.depth + question.breadth - 1,
            "depth": question.depth,
            "breadth": question.breadth,
            "shape": question.shape,
            "starts": [branch.clue.to_json() for branch in question.branches],
            "steps": [step for number, branch in enumerate(question.branches) for step in _steps(number, branch)],
            "accepted": accepted_forms(question.answer, is_title),
            "corpus": f"{PACKAGE}=={VERSION}",
        }
        return Task(
            id=self.task_id(index),
            family=self.family,
            prompt=(Message("system", SYSTEM), Message("user", question.text)),
            answer=question.answer,
            metadata=metadata,
            seed=self.seed,
        )


def _steps(number: int, branch: Branch) -> list[dict[str, Any]]:
    """The gold path of a branch as JSON: which article to open, how to find it, and the line that states the fact."""
    steps = []
    for position, edge in enumerate(branch.path):
        back = edge.relation == MENTIONED_BY
        # an article that is not the source's own must be searched for, and so must the start
        if back:
            query = query_of(edge)
        else:
            query = branch.clue.query if position == 0 else ""
        steps.append(
            {
                "branch": number,
                "article": corpus().articles[edge.stated_in].title,
                "source": corpus().articles[edge.source].title,
                "relation": edge.relation,
                "kind": edge.kind,
                "extra": None if edge.extra is None else corpus().articles[edge.extra].title,
                "value": edge.value,
                "is_title": edge.target is not None,
                "line": edge.text,
                "find": surface(edge) if edge.target is not None else _beginning(edge.text),
                "query": query,
            }
        )
    return steps


@cache
def articles_of(split: Split) -> frozenset[int]:
    """The articles that questions of a split may start from or end at."""
    return frozenset(article.number for article in corpus().articles if split_of(article.title) == split)


def is_said(task: Task) -> bool:
    """Whether an accepted answer is in the question."""
    question = f" {' '.join(wiki_index().terms(task.prompt[-1].content))} "
    answers = (" ".join(wiki_index().terms(form)) for form in task.metadata["accepted"])
    return any(f" {answer} " in question for answer in answers if answer)


def _shapes(weights: dict[str, float], depth: int | None, breadth: int | None) -> dict[tuple[int, int], float]:
    if depth is not None and breadth is not None:
        return {(depth, breadth): 1.0}
    shapes: dict[tuple[int, int], float] = {}
    for name, weight in weights.items():
        first, times, second = name.partition("x")
        if not (times and first.isdigit() and second.isdigit() and 1 <= int(first) <= 6 and 1 <= int(second) <= 4):
            raise ValueError(f'weights has {name!r}, must be "depth x breadth" like "2x1" (depth to 6, breadth to 4)')
        if weight < 0:
            raise ValueError(f"weights[{name!r}] is {weight}, must not be negative")
        if weight and depth in (None, int(first)) and breadth in (None, int(second)):
            shapes[int(first), int(second)] = float(weight)
    if not shapes:
        raise ValueError(f"depth={depth}, breadth={breadth}: no such shape in weights {weights}; give both, or weights")
    return shapes


def _pages(article: Article) -> list[str]:
    """The numbered lines of an article, in pages of about ``_PAGE_CHARS``."""
    pages: list[str] = [""]
    for number, line in enumerate(article.lines, 1):
        if pages[-1] and len(pages[-1]) + len(line) > _PAGE_CHARS:
            pages.append("")
        pages[-1] += f"{number}. {line}\n"
    return [page.rstrip("\n") for page in pages]


def _beginning(line: str) -> str:
    """The first words of a line that say nothing of a value in it: up to its first digit."""
    for position, character in enumerate(line):
        if character.isdigit():
            return line[:position].strip() or line.split()[-1]
    return line[:40]


def _read(result: str, step: Mapping[str, Any]) -> str | None:
    """The value in the lines that ``find`` gave: the name there, or what the relation's rule reads."""
    for numbered in result.splitlines():
        line = numbered.partition(". ")[2]
        if step["is_title"] and step["find"].casefold() in line.casefold():
            return str(step["value"] if step["relation"] == MENTIONED_BY else step["find"])
        if not step["is_title"] and (value := value_in(step["relation"], line)) is not None:
            return value
    return None
