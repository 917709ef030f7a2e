"""The text of an issue about a release: what fails and how, in words, from the failing tests and the change notes.

    toolz 1.2.0: partition all with an empty sequence fails.

    - Partition all with an empty sequence: `list([])` gives `[]`, where `[()]` is expected.
    - Take nth with a negative index: no ValueError is raised, and one should be.

    The notes of this release: "partition_all: handle empty sequences"

Nothing here reads the repair. The names of tests are told as words, of an assertion the two values, of an exception its
text and the function it comes from; a line of a test is never copied, and a sentence that would hold one is left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from envs.code.release_tests import function_of
from envs.code.release_tree import Tree
from envs.code.repo_run import Verdict

MAX_TOLD = 4  # failures that are described
_FAILS = ": it fails."
_LONGEST = 160  # characters of a value
_NOTE = 240  # and of a change note
_COMPARED = re.compile(r"^(?:AssertionError: )?assert (.+?) (==|!=|is not|is|not in|in|>=|<=|>|<) (.+)$", re.S)
_UNITTEST = re.compile(r"^AssertionError: (.+?) != (.+?)(?: : .*)?$", re.S)
_NOT_RAISED = re.compile(r"DID NOT RAISE (?:any of )?\(?(?:<class ')?([\w.]+)|^AssertionError: (\w+) not raised")
_METHOD = re.compile(r"<(?:bound method|function) ([\w.]+)(?: of| at) [^()]*>")  # as pytest names what was called
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Za-z][a-z]*|\d+")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "test tests with when that this from have into should does and the for not can its are was add fix fixed added "
        "new now support returns return value values error raises none true false",
    )
)
_EXPECTED = {
    "==": "where {0} is expected", "!=": "which should be something else than {0}", "is": "where {0} is expected",
    "is not": "which should be something else than {0}", "in": "which should be in {0}",
    "not in": "which should not be in {0}", "<": "which should be below {0}", ">": "which should be above {0}",
    "<=": "which should be at most {0}", ">=": "which should be at least {0}",
}  # fmt: skip


def issue(
    tier: str,
    tree: Tree,
    names: Sequence[str],
    fails: Mapping[str, Verdict],
    notes: Sequence[str],
    documented: bool = True,
) -> str:
    """The report of a defect; "" when there is nothing to tell but that tests fail. ``names``: what a removal took out,
    which its NotImplementedError says anyway; ``documented``: whether a docstring is left there."""
    head = f"Package: {tree.name} {tree.version}."
    if tier == "removal":
        listed = "\n".join(f"- `{tree.module(path)}.{name}`" for path, _, name in (n.partition("::") for n in names))
        what = "This is not implemented" if len(names) == 1 else "These methods are not implemented"
        says = "it does what its documentation says and " if documented else ""
        there = "signature and documentation are" if documented else "the signature is"
        return "\n\n".join(
            [
                head,
                f"{what}; only {there} there, and a call raises NotImplementedError:",
                listed,
                f"Write it, so that {says}the code that uses it works again.",
                *_uses(fails, tree),
            ]
        )
    told = list(dict.fromkeys(_told(fails, tree)))[:MAX_TOLD]
    relevant = relevant_notes(notes, fails, names)
    if not relevant and all(sentence.endswith(_FAILS) for sentence in told):
        return ""
    first = function_of(next(iter(_ranked(fails))))
    lines = "\n".join(f"- {sentence}" for sentence in told)
    parts = [head, f"{_sentence(first)} does not work as it should.", lines]
    more = len({function_of(test) for test in fails}) - len(told)
    if more > 0:
        parts.append(f"{more} more {'case fails' if more == 1 else 'cases fail'} in the same way or a related one.")
    if relevant:
        parts.append("From the notes of this release:\n\n" + "\n".join(f"> {note}" for note in relevant))
    return "\n\n".join(part for part in parts if part)


def new_notes(newer: Tree, older: Tree) -> list[str]:
    """The lines of the change log that came with the newer release."""
    if not newer.changelog or len(newer.changelog) > 400_000:
        return []
    before = set(older.changelog.splitlines())
    lines = [line.strip() for line in newer.changelog.splitlines() if line not in before]
    return [re.sub(r"^[-*•+]\s+", "", line)[:_NOTE] for line in lines if len(_WORD.findall(line)) >= 4]


def relevant_notes(notes: Sequence[str], fails: Collection[str], names: Sequence[str] = ()) -> list[str]:
    """The notes that name what fails: a changed function, or two rare words of a failing test's name."""
    functions = {name.rpartition("::")[2].rpartition(".")[2].strip("_") for name in names} - {""}
    wanted = [frozenset(w for w in _words(function_of(test)) if w not in _COMMON) for test in fails]
    found = []
    for note in notes:
        words = {word.lower() for word in _WORD.findall(note)}
        named = any(re.search(rf"\b{re.escape(function)}\b", note) for function in functions if len(function) > 3)
        if named or any(len(words & test) >= 2 for test in wanted):
            found.append(note)
    return found[:3]


def _told(fails: Mapping[str, Verdict], tree: Tree) -> Iterator[str]:
    """A sentence for each failing function that says something."""
    seen: set[str] = set()
    for test in _ranked(fails):
        function, verdict = function_of(test), fails[test]
        if function in seen:
            continue
        seen.add(function)
        said = _failure(verdict, tree)
        lines = [line.strip() for line in tree.texts[function.partition("::")[0]].split("\n")]
        copied = any(len(line) > 20 and line in said for line in lines)
        yield f"{_sentence(function)}: {said}." if said and not copied else f"{_sentence(function)}{_FAILS}"


def _uses(fails: Mapping[str, Verdict], tree: Tree) -> Iterator[str]:
    words = list(dict.fromkeys(_sentence(function_of(test)) for test in _ranked(fails)))[:MAX_TOLD]
    if words:
        yield "What does not work without it:\n\n" + "\n".join(f"- {text}" for text in words)


def _ranked(fails: Mapping[str, Verdict]) -> list[str]:
    """Those that tell the most in the fewest words first, and else in the order given."""
    return sorted(fails, key=lambda t: (not fails[t].got, "\n" in fails[t].got[:200], len(fails[t].got)))


def _failure(verdict: Verdict, tree: Tree) -> str:
    """What went wrong, without a full stop; "" where the message says nothing."""
    text = _METHOD.sub(r"\1", verdict.got.strip())
    first = text.split("\n")[0].strip()
    if raised := _NOT_RAISED.search(text):
        return f"no {(raised[1] or raised[2]).rpartition('.')[2]} is raised, and one should be"
    compared = _COMPARED.match(first) or _UNITTEST.match(first)
    if compared is not None:
        left, right = compared[1], compared[len(compared.groups())]
        form = _EXPECTED[compared[2]] if len(compared.groups()) == 3 else _EXPECTED["=="]
        called = re.search(rf"where {re.escape(left)} = ([^<\n]{{1,120}})$", text, re.M)
        what = f"{_value(called[1])} gives" if called is not None else "the result is"
        return f"{what} {_value(left)}, {form.format(_value(right))}"
    if not first or first.startswith(("AssertionError", "assert ")):
        return ""
    kind, _, message = first.partition(":")
    kind = kind.strip().rpartition(".")[2] or "an exception"
    where = f" in `{tree.module(verdict.inside.partition('::')[0])}`" if verdict.inside else ""
    said = f" ({_value(message.strip())})" if message.strip() else ""
    return f"{kind} is raised{where}{said}"


def _value(text: str) -> str:
    text = text.strip().replace("`", "'")
    return f"`{text if len(text) <= _LONGEST else text[: _LONGEST - 2] + ' …'}`"


def _words(function: str) -> list[str]:
    """``tests/test_a.py::TestTake::test_take_nothing`` -> take, nothing; the class where the name is one word."""
    *classes, name = function.split("::")[1:]
    words = [word.lower() for word in _WORD.findall(re.sub(r"^test_?", "", name).replace("_", " "))]
    outer = [w.lower() for c in classes for w in _WORD.findall(re.sub(r"(?i)tests?(case)?", " ", c))]
    return words if len(words) > 2 or not outer else [*outer, *words]


def _sentence(function: str) -> str:
    words = " ".join(_words(function)) or function.partition("::")[0].rpartition("/")[2].removesuffix(".py")
    return words[:1].upper() + words[1:]
