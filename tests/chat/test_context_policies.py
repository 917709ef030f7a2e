"""Context policies: which messages go, what a restart renders, what is counted, and that no token is ever rewritten."""

from __future__ import annotations

from collections import Counter

import pytest
from chat_fixtures import SEARCH, assistants, plain, renderer
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.types import Message, ToolCall
from rl.chat.context_manager import ContextConfig, ContextManager, cycles, discard
from rl.chat.session import Session, SessionError

PROMPT = (Message("system", "S", tools=(SEARCH,)), Message("user", "Which metal?"))


def call(n: int) -> Message:
    return Message("assistant", reasoning=f"r{n}", tool_calls=(ToolCall("search", {"query": f"q{n}"}),))


def cycle(n: int) -> tuple[Message, Message]:
    return call(n), Message("tool", f"t{n}")


def history(n: int) -> tuple[Message, ...]:
    return (*PROMPT, *(m for i in range(1, n + 1) for m in cycle(i)))


def say(session: Session, message: Message, *, ended: bool = True) -> Message:
    context = session.context
    before, after = (renderer().render(c, thinking=True) for c in (context, [*context, message]))
    tokens = after[len(before) :]
    if not ended:
        tokens = tokens[:-1]
    return session.append_sampled(tokens, [-0.5] * len(tokens), 0, ended=ended)


def played(n: int, config: ContextConfig, window: int = 10_000) -> tuple[Session, ContextManager, Counter[str]]:
    """A session with ``n`` cycles behind it, whose window is ``window``."""
    session = Session(renderer(), PROMPT, thinking=True, max_context=10_000)
    counts: Counter[str] = Counter()
    manager = ContextManager(config, session, counts)
    for i in range(1, n + 1):
        say(session, call(i))
        session.append_messages([Message("tool", f"t{i}")])
    session.max_context = window
    return session, manager, counts


def tools_in(messages: tuple[Message, ...]) -> list[str]:
    return [m.content for m in messages if m.role == "tool"]


# -- which cycles go ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "share", "left"),
    # of 8 cycles the first 6 go, of 5 the first 3 (3.75 rounded down); of one, that one
    [(8, 0.75, ["t7", "t8"]), (5, 0.75, ["t4", "t5"]), (4, 0.75, ["t4"]), (1, 0.75, []), (4, 1.0, [])],
)
def test_discard_by_hand(n: int, share: float, left: list[str]) -> None:
    rest = discard(history(n), 2, share)
    assert tools_in(rest) == left
    assert rest[:2] == PROMPT
    assert len(rest) == 2 + 2 * len(left)  # a call goes with its result


def test_a_cycle_is_a_call_with_all_its_results() -> None:
    two = Message("assistant", tool_calls=(ToolCall("f", {}),) * 2)
    wrong = Message("assistant", "<bad>", parse_error="no")
    messages = (
        *PROMPT, two, Message("tool", "a"), Message("tool", "b"), wrong, Message("tool", "Error: no"),
        Message("assistant", "Tin.", reasoning=""), Message("user", "And?"), *cycle(9),
    )  # fmt: skip
    assert cycles(messages, 2) == [range(2, 5), range(5, 7), range(9, 11)]
    rest = discard(messages, 2, 1.0)
    assert [m.content for m in rest] == ["S", "Which metal?", "Tin.", "And?"]  # what is no cycle stays


def test_few_shot_cycles_of_the_prompt_stay() -> None:
    messages = (*history(2), *cycle(3))
    assert tools_in(discard(messages, 6, 1.0)) == ["t1", "t2"]


# -- when, and what then -----------------------------------------------------------------------


def test_the_trigger_is_a_share_of_the_window() -> None:
    session, manager, counts = played(4, ContextConfig("discard_all", trigger=0.5))
    session.max_context = 2 * session.used
    manager.before_turn()
    assert counts == {}  # exactly half is not more than half
    session.max_context = 2 * session.used - 1
    manager.before_turn()
    assert counts == {"context_discard_all": 1}
    assert session.context == PROMPT


@pytest.mark.parametrize(("policy", "left"), [("discard_75", ["t4"]), ("discard_all", [])])
def test_discarding_starts_a_segment_and_leaves_the_old_one(policy: str, left: list[str]) -> None:
    session, manager, counts = played(4, ContextConfig(policy), window=10)
    old = session.segments()[-1].tokens.tolist()
    manager.before_turn()
    assert tools_in(session.context) == left
    assert session.prompt_tokens() == renderer().render(session.context, thinking=True)
    assert counts == {f"context_{policy}": 1}
    assert session.messages == history(4)  # the record is whole
    assert session.marks == {9: policy}  # at the last message before
    say(session, Message("assistant", "Tin", reasoning="found"))
    first, second = session.segments()
    assert first.tokens.tolist() == old
    assert not second.loss_mask[: len(renderer().render(session.context[:-1], thinking=True))].any()


@pytest.mark.parametrize("policy", ["none", "parallel_fewest_step"])
def test_policies_that_do_nothing_within_a_run(policy: str) -> None:
    session, manager, counts = played(4, ContextConfig(policy), window=10)
    manager.before_turn()
    assert (counts, session.context) == ({}, history(4))


def test_restarts_are_limited_and_a_long_prompt_alone_is_left_alone() -> None:
    session, manager, counts = played(2, ContextConfig("discard_all", max_restarts=1), window=10)
    manager.before_turn()
    manager.before_turn()  # nothing but the prompt: nothing to drop
    assert counts == {"context_discard_all": 1}
    say(session, call(3))
    session.append_messages([Message("tool", "t3")])
    manager.before_turn()  # the limit
    assert counts == {"context_discard_all": 1}
    assert tools_in(session.context) == ["t3"]


# -- summaries ---------------------------------------------------------------------------------

SUMMARY = ContextConfig("summary", summary_request="Sum up.", summary_heading="So far:", summary_tokens=40)


def restarted(answer: Message, *, ended: bool = True, n: int = 2) -> tuple[Session, Counter[str]]:
    session, manager, counts = played(n, SUMMARY, window=10_000)
    session.max_context = session.used
    manager.before_turn()
    assert manager.summarising
    assert manager.turn_tokens(160) == 40
    assert session.context[-1] == Message("user", "Sum up.")
    manager.restart(say(session, answer, ended=ended))
    assert not manager.summarising
    assert manager.turn_tokens(160) == 160
    return session, counts


def test_a_summary_is_sampled_and_the_work_goes_on_from_it() -> None:
    session, counts = restarted(Message("assistant", "Not gold.", reasoning="hm"))
    assert session.context == (PROMPT[0], Message("user", "Which metal?\n\nSo far:\nNot gold."))
    assert counts["context_summary"] == 1
    asked, answered = session.messages[-2:]
    assert (asked.content, answered.content) == ("Sum up.", "Not gold.")
    assert session.marks == {6: "summary", 7: "summary"}
    assert session.dialogue == history(2)  # what the environment and the scorer know of
    say(session, Message("assistant", "Tin", reasoning="found"))
    work, summary, rest = session.segments()
    text = renderer().tokenizer.decode(summary.tokens[summary.loss_mask].tolist())
    assert text == "hm</think>Not gold.<｜end▁of▁sentence｜>"  # trained on, in a segment of its own
    assert work.loss_mask.sum() + summary.loss_mask.sum() + rest.loss_mask.sum() > summary.loss_mask.sum()
    assert renderer().tokenizer.decode(rest.tokens.tolist()).count("Which metal?") == 1


def test_the_next_summary_takes_the_place_of_the_last() -> None:
    session, manager, _ = played(1, SUMMARY)
    for text in ("one", "two"):
        session.max_context = session.used
        manager.before_turn()
        manager.restart(say(session, Message("assistant", text, reasoning="")))
        say(session, call(5))
        session.append_messages([Message("tool", "t5")])
    assert session.context[1].content == "Which metal?\n\nSo far:\ntwo"


def test_a_cut_off_summary_is_used_as_far_as_it_goes() -> None:
    session, counts = restarted(Message("assistant", "Not gold, but", reasoning="hm"), ended=False)
    assert session.context[1].content.endswith("So far:\nNot gold, but")
    assert counts["context_summary_unusable"] == 0
    assert not session.is_cut_off


@pytest.mark.parametrize("answer", [call(7), Message("assistant", "  ", reasoning="hm")])
def test_an_unusable_summary_is_counted_and_nothing_is_carried_over(answer: Message) -> None:
    session, counts = restarted(answer)
    assert session.context == PROMPT
    assert counts["context_summary_unusable"] == 1


def test_what_does_not_fit_beside_the_request_is_not_summarised() -> None:
    session, manager, counts = played(4, SUMMARY)
    request = Message("user", "Sum up.")
    two_left = renderer().render([*PROMPT, *cycle(3), *cycle(4), request], thinking=True)
    session.max_context = len(two_left) + 40
    manager.before_turn()
    assert tools_in(session.context) == ["t3", "t4"]
    assert counts == {"context_summary": 1, "context_summary_cycles_lost": 2}
    assert session.room() == 40
    assert session.dialogue == history(4)


def test_a_prompt_that_ends_with_a_result_gets_the_summary_as_a_message() -> None:
    session = Session(renderer(), history(1), thinking=True, max_context=10_000)
    manager = ContextManager(SUMMARY, session, Counter())
    say(session, call(2))
    session.append_messages([Message("tool", "t2")])
    session.max_context = session.used
    manager.before_turn()
    manager.restart(say(session, Message("assistant", "Not gold.", reasoning="")))
    assert session.context == (*history(1), Message("user", "So far:\nNot gold."))


# -- properties --------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["summary", "discard_75", "discard_all"])
@settings(max_examples=40)
@given(st.data())
def test_token_truth(policy: str, data: st.DataObject) -> None:
    """Every sampled token stands in exactly one segment, behind the prompt that the engine saw."""
    session = Session(renderer(), PROMPT, thinking=True, max_context=data.draw(st.integers(200, 900)))
    manager = ContextManager(ContextConfig(policy, trigger=0.5, summary_tokens=20), session, Counter())
    stream: list[int] = []
    n_segments = 0
    for _ in range(data.draw(st.integers(1, 8))):
        manager.before_turn()
        prompt = session.prompt_tokens()
        message = data.draw(assistants(True))
        context = session.context
        tokens = renderer().render([*context, message], thinking=True)[len(renderer().render(context, thinking=True)) :]
        said = session.append_sampled(tokens, [-1.0] * len(tokens), 0, ended=True)
        segments = session.segments()
        if len(segments) > n_segments:  # a new one begins with a prompt that was rendered anew
            stream, n_segments = renderer().render(context, thinking=True), len(segments)
        assert prompt[: len(stream)] == stream  # append-only since then
        stream = prompt + tokens
        assert segments[-1].tokens.tolist() == stream
        assert segments[-1].loss_mask[len(prompt) :].all()
        if manager.summarising:
            manager.restart(said)
        elif said.tool_calls:
            session.append_messages([Message("tool", data.draw(plain)) for _ in said.tool_calls])
        else:
            session.append_messages([Message("user", data.draw(plain))])
    assert next(m for m in session.messages if m.role == "user") == PROMPT[1]


def test_wrong_settings_and_wrong_use_are_named() -> None:
    for field, value in (
        ("policy", "forget"), ("trigger", 0.0), ("trigger", 1.5), ("max_restarts", -1), ("max_total_tokens", 0),
        ("summary_tokens", 0), ("summary_request", ""), ("parallel", 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"rollout.context.{field}={value!r}"):
            ContextConfig(**{field: value})  # type: ignore[arg-type]
    session = Session(renderer(), PROMPT, thinking=True, max_context=100)
    with pytest.raises(SessionError, match="must end with a user or tool"):
        session.rewrite(PROMPT[:1])
    with pytest.raises(SessionError, match="was not cut off"):
        session.as_ended()
