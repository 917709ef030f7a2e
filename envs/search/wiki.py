"""The hard tier of search: questions that take several articles of a real corpus; tools search, open and find.

    Consider the biologist who spent most of his career teaching at Harvard University and …. Which American philosopher
    died in the same year as that biologist?

    search("biologist career teaching Harvard …")   [8617] Stephen Jay Gould: … spent most of his career teaching at …
    open("Stephen Jay Gould")                       1. American biologist and historian of science (1941–2002)
    search("American philosopher 2002")             [4815] John Rawls: …
    open("John Rawls")                              1. American philosopher (1921–2002)

The corpus is 10,033 English Wikipedia summaries from an installed package (``wiki_corpus``). Levels: depth (articles
to read one after the other) plus breadth (statements or walks put together) minus one. A task is served only when it
passes ``verify``: the same filter for direct use and for what ``envs-build`` makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from envs.environment import Environment, ToolError, tool
from envs.search.wiki_answers import accepted_forms, is_right
from envs.search.wiki_corpus import PACKAGE, VERSION, Article, corpus
from envs.search.wiki_index import wiki_index
from envs.search.wiki_judges import fooled
from envs.search.wiki_questions import Question, draw_goal, may_be_about, propose
from envs.search.wiki_readable import flaws
from envs.search.wiki_steps import beginning_of_plan, read_answer, steps_of
from envs.search.wiki_walks import says
from envs.taskset import Split, Taskset, split_of
from envs.types import Episode, Message, Task

SYSTEM = (
    "Answer the question with the tools. They search a library of encyclopedia articles; everything that a question "
    "asks for, and everything on the way to it, has an article of its own there. End with the answer alone: a name, "
    "a year, a date or a number."
)
# "depth x breadth": how often; the corpus has few long ways
WEIGHTS: dict[str, float] = {"1x2": 4, "1x3": 2, "2x1": 4, "2x2": 3, "3x1": 1, "3x2": 0.4, "4x1": 0.2}
_TRIES_OF_A_FORM = 600
_MAX_TRIES = 60_000
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
        plan = beginning_of_plan(self.task.metadata, _MAX_RESULTS)
        if turn < len(plan):
            calls, must_show = plan[turn]
            if results and must_show.casefold() not in results[-1].casefold():
                return Message("assistant", "I could not find it.", reasoning=f"{must_show} is not there.")
            names = " and ".join(call.name for call in calls)
            return Message("assistant", reasoning=f"Next: {names}.", tool_calls=calls)
        called = [call.name for calls, _ in plan for call in calls]
        lines = [result for result, name in zip(results, called, strict=True) if name == "find"]
        answer = read_answer(self.task.metadata, lines)
        return Message("assistant", answer or "I could not find it.", reasoning="That is the answer.")


class WikiTaskset(Taskset):
    """Questions about the corpus. ``depth`` and ``breadth`` fix the shape; without them ``weights`` says how often
    which ("2x1": depth 2, breadth 1) is drawn.

    The key is the articles on the way
    and what is asked. The articles, not the keys, are split: all that lie on the way to an answer belong to the
    question's split, so training shares no document of a path with what is held out.
    """

    family = "wiki"
    version = 2  # 2: steps begin with the start, and go by years
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
        for task, reason in self.candidates(index):
            if reason is None:
                return task
        raise RuntimeError(f"WikiTaskset: no question for task {index} in {_MAX_TRIES} tries: use smaller shapes")

    def candidates(self, index: int) -> Iterator[tuple[Task, str | None]]:
        """What is proposed for a task, each with what ``verify`` says; the first that it accepts is the task."""
        rng, allowed = self.rng(index), articles_of(self.split)
        everything = tuple(sorted(allowed))
        for attempt in range(_MAX_TRIES):
            if attempt % _TRIES_OF_A_FORM == 0:  # some forms have few questions: another one then
                depth, breadth = rng.choices(list(self.shapes), weights=list(self.shapes.values()))[0]
                goal = draw_goal(depth, breadth, rng)
                about = may_be_about(goal)
                pool = everything if about is None else tuple(number for number in about if number in allowed)
            if not pool:
                continue
            question = propose(rng, goal, depth, breadth, allowed, rng.choice(pool))
            if question is not None:
                task = self._task(index, question)
                yield task, self.verify(task)

    def verify(self, task: Task) -> str | None:
        """Beyond the oracle: the question can be read, every supporting line is in its article, no step is said, and
        every weak answerer is wrong."""
        metadata, question = task.metadata, task.prompt[-1].content
        if metadata["corpus"] != f"{PACKAGE}=={VERSION}":
            return "other_corpus"
        if flaws(question):
            return "unreadable"
        for step in metadata["steps"]:
            if step["line"] not in corpus()[step["article"]].lines:
                return "no_support"
        if is_said(task):
            return "answer_in_question"
        if any(says(question, step["value"]) for step in metadata["steps"]):
            return "step_in_question"
        return fooled(question, metadata) or super().verify(task)

    def _task(self, index: int, question: Question) -> Task:
        last = question.branches[-1].path[-1]
        is_title = question.shape == "compare" or (question.shape != "between" and last.target is not None)
        metadata = {
            "key": question.key,
            "level": question.depth + question.breadth - 1,
            "depth": question.depth,
            "breadth": question.breadth,
            "shape": question.shape,
            "template": question.template,
            "most": question.most,
            "starts": [branch.clue.to_json() for branch in question.branches],
            "steps": steps_of(question),
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


@cache
def articles_of(split: Split) -> frozenset[int]:
    """The articles that may lie on the way of a question of a split."""
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
