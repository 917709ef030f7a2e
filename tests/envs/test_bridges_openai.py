"""Chat JSON and the loopback endpoint: round trips by property, and the real OpenAI client against the server."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.bridges.openai_chat import from_openai, to_openai
from envs.bridges.openai_exchange import ChatRefusal, ChatReply, ChatRequest, Spent
from envs.bridges.openai_request import ChatOptions, read_request
from envs.bridges.openai_responses import chat_body, events, response_of
from envs.bridges.openai_server import ChatServer
from envs.bridges.schemas import check_call, function_schema
from envs.driving import mistakes
from envs.message_forms import message_of
from envs.types import Message, ToolCall

SCHEMA = {"name": "count", "description": "Count.", "parameters": {"type": "object", "properties": {}, "required": []}}

texts = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
calls = st.builds(ToolCall, st.from_regex(r"[a-z_]{1,9}", fullmatch=True), st.dictionaries(texts, values, max_size=3))
assistants = st.builds(
    lambda content, reasoning, made: Message("assistant", content, reasoning, tuple(made)),
    texts,
    st.none() | st.text(min_size=1, max_size=20),
    st.lists(calls, max_size=3),
)


@st.composite
def dialogues(draw: st.DrawFn) -> tuple[Message, ...]:
    """A system message with tools, then users, assistants and the results of their calls."""
    messages = [Message("system", draw(texts), tools=(SCHEMA,) * draw(st.integers(0, 2)))]
    for _ in range(draw(st.integers(0, 4))):
        messages.append(Message("user", draw(texts)))
        answer = draw(assistants)
        messages.append(answer)
        messages += [Message("tool", draw(texts)) for _ in answer.tool_calls]
    return tuple(messages)


@given(dialogues())
@settings(max_examples=100)
def test_there_and_back(dialogue: tuple[Message, ...]) -> None:
    wire, tools = to_openai(dialogue)
    assert from_openai(json.loads(json.dumps(wire)), json.loads(json.dumps(tools))) == dialogue
    ids = [call["id"] for entry in wire for call in entry.get("tool_calls", ())]
    assert len(ids) == len(set(ids))
    assert [entry["tool_call_id"] for entry in wire if entry["role"] == "tool"] == ids
    assert tuple(message_of(json.loads(json.dumps(m.to_json()))) for m in dialogue) == dialogue


@given(dialogues(), st.randoms())
@settings(max_examples=50)
def test_results_come_in_any_order(dialogue: tuple[Message, ...], rng: Any) -> None:
    wire, _ = to_openai(dialogue)
    shuffled: list[dict[str, Any]] = []
    block: list[dict[str, Any]] = []
    for entry in [*wire, {"role": "end"}]:
        if entry["role"] == "tool":
            block.append(entry)
        else:
            rng.shuffle(block)
            shuffled += [*block, entry]
            block = []
    back = from_openai(shuffled[:-1])
    assert [m.content for m in back] == [m.content for m in dialogue]


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        ([{"role": "user", "content": [{"type": "image_url"}]}], "message 0 has a part of type 'image_url'"),
        ([{"role": "robot", "content": ""}], "role 'robot'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "only text is supported"),
        ([{"role": "assistant", "content": "", "reasoning_content": 5}], "message 0 has reasoning=5, wanted a text"),
        ([{"role": "tool", "tool_call_id": "x", "content": ""}], "call 'x' that was not made"),
        ([{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{"}}]}], "no JSON"),
        (
            [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "[]"}}]}],
            "not an o",
        ),
    ],
)
def test_what_has_no_form_is_refused(wire: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        from_openai(wire)


def test_a_result_needs_a_call() -> None:
    with pytest.raises(ValueError, match="without a call"):
        to_openai((Message("tool", "3"),))


@pytest.mark.parametrize("message", [Message("assistant", "So", prefix=True), Message("system", response_format={})])
def test_what_a_request_has_no_place_for(message: Message) -> None:
    with pytest.raises(ValueError, match="a prefix or a response format has no form"):
        to_openai((message,))


def test_parts_of_text_and_tools_without_a_system_message() -> None:
    wire = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    tools = [{"type": "function", "function": SCHEMA}]
    assert from_openai(wire, tools) == (Message("system", tools=(SCHEMA,)), Message("user", "a\nb"))


# -- the server -----------------------------------------------------------------------------


def shop(request: ChatRequest) -> ChatReply:
    """Two calls first, then what they gave; the reasoning says how many schemas were shown."""
    if request.messages[-1].role == "tool":
        counted = " and ".join(m.content for m in request.messages if m.role == "tool")
        return ChatReply(Message("assistant", counted), spent=Spent(7, 3, 5, 2))
    pair = (ToolCall("count", {"item": "pear"}), ToolCall("count", {"item": "äpple"}))
    said = Message("assistant", "I look.", reasoning=f"{len(request.messages[0].tools)} tools", tool_calls=pair)
    return ChatReply(said)


@pytest.mark.parametrize("in_url", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_the_openai_client_talks_to_it(stream: bool, in_url: bool) -> None:
    openai = pytest.importorskip("openai", reason="pip install 'openai==3.54.0'")
    threads = threading.active_count()
    with ChatServer() as server:
        assert server.base_url.startswith("http://127.0.0.1:")
        key = server.open_session(shop)
        where = {"base_url": server.url_of(key), "api_key": "-"} if in_url else {
            "base_url": server.base_url, "api_key": key,
        }  # fmt: skip
        with openai.OpenAI(max_retries=0, **where) as client:
            messages: list[Any] = [{"role": "user", "content": "How many?"}]
            tools: list[Any] = [{"type": "function", "function": SCHEMA}]

            def ask() -> Any:
                if not stream:
                    return client.chat.completions.create(model="m", messages=messages, tools=tools)
                with client.chat.completions.stream(model="m", messages=messages, tools=tools) as events:
                    for _ in events:
                        pass
                    return events.get_final_completion()

            first = ask().choices[0]
            assert first.finish_reason == "tool_calls"
            assert first.message.content == "I look."
            assert first.message.reasoning_content == "1 tools"
            assert [json.loads(c.function.arguments)["item"] for c in first.message.tool_calls] == ["pear", "äpple"]
            messages.append(first.message.model_dump(exclude_none=True, exclude={"parsed"}))
            for call, count in reversed(list(zip(first.message.tool_calls, ("3", "11"), strict=True))):
                messages.append({"role": "tool", "tool_call_id": call.id, "content": count})
            second = ask()
            assert second.choices[0].message.content == "3 and 11"
            assert second.choices[0].finish_reason == "stop"
            if not stream:
                assert (second.usage.prompt_tokens, second.usage.completion_tokens) == (7, 5)
                assert second.usage.prompt_tokens_details.cached_tokens == 3
                assert second.usage.completion_tokens_details.reasoning_tokens == 2
            assert [model.id for model in client.models.list().data] == ["policy"]
    assert threading.active_count() <= threads


def post(url: str, key: str, body: Any) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with opener.open(urllib.request.Request(url, data, headers), timeout=20) as answer:
        return json.load(answer)


def test_sessions_do_not_mix_and_wait_for_one_another() -> None:
    with ChatServer() as server:
        barrier = threading.Barrier(6)  # every function waits until all were asked: they run side by side

        def answer(name: str) -> Any:
            return lambda request: ChatReply(
                Message("assistant", f"{name} {barrier.wait(20) >= 0} {request.model}")
            )  # fmt: skip

        keys = [server.open_session(answer(f"session {i}")) for i in range(6)]
        url = f"{server.base_url}/chat/completions"
        with ThreadPoolExecutor(6) as pool:
            said = list(pool.map(lambda i: post(url, keys[i], {"model": f"m{i}", "messages": []}), range(6)))
        assert [s["choices"][0]["message"]["content"] for s in said] == [f"session {i} True m{i}" for i in range(6)]


def test_what_is_refused() -> None:
    def broken(request: ChatRequest) -> ChatReply:
        raise RuntimeError("the policy is gone")

    def full(request: ChatRequest) -> ChatReply:
        raise ChatRefusal(400, "send less", "context_length_exceeded")

    def reward(body: Any) -> None:
        if "reward" not in body:
            raise ValueError("no reward in it")

    with ChatServer() as server:
        key, url = server.open_session(broken), f"{server.base_url}/chat/completions"
        other, post_url = server.open_session(full, reward), f"{server.base_url}/reward"
        assert post(post_url, other, {"reward": 1}) == {"ok": True}
        for wrong_key, wrong_url, body, status, why in (
            ("nobody", url, {"messages": []}, 401, "unknown API key"),
            (key, url, {}, 400, "messages"),
            (key, url, [1], 400, "wanted an object"),
            ("é", url, {"messages": []}, 401, "unknown API key"),
            (other, url, {"messages": []}, 400, "send less"),
            (other, post_url, {}, 400, "no reward in it"),
            (key, post_url, {"reward": 1}, 404, "no such path: /v1/reward"),
            (key, url, {"messages": [], "n": 2}, 400, "n=2"),
            (key, f"{server.base_url}/embeddings", {"messages": []}, 404, "no such path"),
            (key, url, b"[" * 100_000, 400, "the request is no JSON"),
            (key, url, {"messages": []}, 500, "RuntimeError: the policy is gone"),
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                post(wrong_url, wrong_key, body)
            assert caught.value.code == status
            assert why in json.load(caught.value)["error"]["message"]
        server.close_session(key)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            post(url, key, {"messages": []})


@pytest.mark.parametrize(
    "argument",
    [{"pattern": r"^\p{L}+$"}, {"$ref": "#/properties/a"}, {"type": "text"}, {"multipleOf": 0}, {"$ref": 5}, 1],
)
def test_a_schema_that_cannot_be_checked_counts_nothing(argument: Any) -> None:
    """It is the program's: what is wrong with it must not end a run."""
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"a": argument}}}
    for value in ("text", 3):
        said = Message("assistant", tool_calls=(ToolCall("f", {"a": value}),))
        assert mistakes((Message("system", tools=(tool,)),), said) == {}


@pytest.mark.timeout(20)
def test_what_a_schema_refers_to_is_not_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        elsewhere = {"$ref": f"http://127.0.0.1:{listening.getsockname()[1]}/schema"}
        schema = function_schema("f", None, {"properties": {"a": elsewhere, "b": {"type": "string"}}})
        assert check_call(schema, {"a": 1}) is None
        assert "'c'" in (check_call(schema, {"b": "x", "c": 1}) or "").replace('"', "'")
        with pytest.raises(TimeoutError):
            listening.accept()


def test_half_a_surrogate_pair_anywhere_in_a_request_is_a_question_mark() -> None:
    seen: list[ChatRequest] = []

    def answer(request: ChatRequest) -> ChatReply:
        seen.append(request)
        return ChatReply(Message("assistant", "ok"))

    call = {"id": "1", "function": {"name": "f", "arguments": json.dumps({"a": "\ud800", "b": "\U0001f600"})}}
    tool = {"type": "function", "function": {"name": "f", "description": "\udfff"}}
    said = [*HELLO, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "", "tool_call_id": "1"}]
    with ChatServer() as server:
        key = server.open_session(answer)
        post(f"{server.base_url}/chat/completions", key, {"messages": said, "tools": [tool]})
    assert seen[0].messages[0].tools[0]["description"] == "?"
    assert seen[0].messages[2].tool_calls[0].arguments == {"a": "?", "b": "\U0001f600"}


HELLO: list[Any] = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"n": 2}, "n=2: cannot be had here; leave it out"),
        ({"logprobs": True}, "logprobs=True"),
        ({"presence_penalty": 0.5}, "presence_penalty=0.5"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"functions": [{}]}, "functions"),
        ({"max_tokens": 0}, "max_tokens=0: must be a whole number, at least 1"),
        ({"max_completion_tokens": True}, "max_tokens=True"),
        ({"stop": [""]}, "must be texts"),
        ({"stop": 7}, "stop=7: must be texts"),
        ({"tools": "search"}, "tools='search': must be a list of functions"),
        ({"tools": [{"type": "web_search"}]}, "must be a list of functions"),
        ({"tools": [{"function": {"name": 5}}]}, "the request has the tool .*, wanted a function schema with a name"),
        ({"tools": [{"function": {}}]}, "wanted a function schema with a name"),
        ({"tools": [{"function": {"name": "f", "parameters": "x"}}]}, "whose parameters are no JSON schema"),
        ({"stream_options": 5}, "stream_options=5: must be an object"),
        ({"response_format": {"type": "json_object"}}, "must be text, or a json_schema with its schema"),
        ({"response_format": "json"}, "response_format='json'"),
        ({"response_format": {"type": "json_schema", "json_schema": 5}}, "or a json_schema with its schema"),
        ({"messages": {}}, "messages={}: must be a list"),
    ],
)
def test_settings_that_cannot_be_had_are_refused(body: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_request({"messages": HELLO, **body})


def test_settings_that_are_obeyed_and_those_that_mean_nothing() -> None:
    tools = [{"type": "function", "function": SCHEMA}]
    nothing = {
        "temperature": 0.2,
        "top_p": 0.5,
        "seed": 3,
        "n": 1,
        "logprobs": None,
        "presence_penalty": 0.0,
        "user": "me",
    }
    (hello,), options = read_request({"messages": HELLO, "tools": tools, "tool_choice": "none", **nothing})
    assert (hello, options) == (Message("user", "Hi"), ChatOptions())
    asked = {"max_tokens": 9, "max_completion_tokens": 7, "stop": "End", "stream": True,
             "stream_options": {"include_usage": True}, "tool_choice": "required", "tools": tools}  # fmt: skip
    messages, options = read_request({"messages": HELLO, **asked})
    assert messages[0].tools == (SCHEMA,)
    assert options == ChatOptions(7, ("End",), True, True)
    shape = {"type": "object", "properties": {}}
    given = {"type": "json_schema", "json_schema": {"name": "x", "schema": shape}}
    messages, _ = read_request({"messages": HELLO, "response_format": given})
    assert messages == (Message("system", response_format=shape), Message("user", "Hi"))
    messages, _ = read_request({"messages": [{"role": "system", "content": "S"}, *HELLO], "response_format": given})
    assert messages[0] == Message("system", "S", response_format=shape)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n"),
        ("Content-Length: -1", b"{}"),
        ("Content-Length: x", b"{}"),
    ],
)
def test_a_body_of_no_length_is_refused_once(header: str, body: bytes) -> None:
    """In words, and what was not read is not taken for the next request."""
    with ChatServer() as server:
        url = urlsplit(server.url_of(server.open_session(lambda request: ChatReply(Message("assistant", "hi")))))
        with socket.create_connection(("127.0.0.1", url.port or 0), timeout=30) as connection:
            head = f"POST {url.path}/chat/completions HTTP/1.1\r\nHost: me\r\n{header}\r\n\r\n"
            connection.sendall(head.encode() + body)
            said = b"".join(iter(lambda: connection.recv(65536), b""))
    assert said.startswith(b"HTTP/1.1 411 ")
    assert said.count(b"HTTP/1.1") == 1
    assert b"says no Content-Length" in said


def test_a_session_that_is_closed_lets_go_of_its_connections() -> None:
    """Clients that nobody closes would hold a thread each for a minute."""
    with ChatServer() as server:
        key = server.open_session(shop)
        before = threading.active_count()
        connection = http.client.HTTPConnection("127.0.0.1", int(server.base_url.split(":")[2].removesuffix("/v1")))
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
        assert json.load(connection.getresponse())["data"][0]["id"] == "policy"
        (held,) = [t for t in threading.enumerate() if "process_request_thread" in t.name]
        server.close_session(key)
        held.join(20)
        assert threading.active_count() == before
        connection.close()


def test_who_has_gone_is_seen() -> None:
    seen: list[bool] = []
    asked, hung_up = threading.Event(), threading.Event()

    def answer(request: ChatRequest) -> ChatReply:
        seen.append(request.is_gone())
        asked.set()
        hung_up.wait(20)
        seen.append(request.is_gone())
        return ChatReply(Message("assistant", "late"))

    with ChatServer() as server:
        url = server.url_of(server.open_session(answer))
        connection = http.client.HTTPConnection("127.0.0.1", int(url.split(":")[2].partition("/")[0]))
        connection.request(
            "POST",
            f"{url.partition('/e/')[1]}{url.partition('/e/')[2]}/chat/completions",
            json.dumps({"messages": HELLO}),
        )
        asked.wait(20)
        connection.close()
        hung_up.set()
        for thread in [t for t in threading.enumerate() if "process_request_thread" in t.name]:
            thread.join(20)
    assert seen == [False, True]


# -- the Responses API ----------------------------------------------------------------------


def test_items_are_the_messages_that_they_make() -> None:
    body = {
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "How many?"}]},
            {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "a", "name": "count", "arguments": '{"item": "pear"}'},
            {"type": "function_call", "call_id": "b", "name": "count", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "11"}]},
            {"type": "function_call_output", "call_id": "a", "output": "3"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "So."}]},
            {"role": "assistant", "content": "14"},
            {"role": "assistant", "content": "I am sure."},
            {"role": "user", "content": "Thanks."},
        ],
        "tools": [{"type": "function", **SCHEMA, "strict": None}],
        "max_output_tokens": 9,
        "stream": True,
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
    }
    messages, options = read_request(chat_body(body))
    pair = (ToolCall("count", {"item": "pear"}), ToolCall("count"))
    assert messages == (
        Message("system", "Be brief.", tools=(SCHEMA,), response_format={"type": "object"}),
        Message("user", "How many?"),
        Message("assistant", "I look.", "Hm.", pair),
        Message("tool", "3"),
        Message("tool", "11"),
        Message("assistant", "14", "So."),
        Message("assistant", "I am sure."),
        Message("user", "Thanks."),
    )
    assert options == ChatOptions(9, stream=True)
    assert read_request(chat_body({"input": "Hi"})) == ((Message("user", "Hi"),), ChatOptions())


@given(
    st.builds(
        ChatReply,
        st.builds(
            Message,
            st.just("assistant"),
            st.text(max_size=9),
            st.none() | st.text(max_size=9),
            st.lists(
                st.builds(ToolCall, st.sampled_from(["f", "g"]), st.dictionaries(st.text(max_size=3), st.integers()))
            ),
        ),
        st.booleans(),
        st.just(Spent(7, 3, 5, 2)),
    )
)
def test_what_is_said_in_items_comes_back_as_the_same_message(reply: ChatReply) -> None:
    """And its stream events end with the same response, whose items they have said in order."""
    request = ChatRequest((Message("assistant", tool_calls=(ToolCall("f"),) * 3), Message("user", "?")), "m")
    response = response_of(request, reply)
    (said,) = read_request(chat_body({"input": response["output"]}))[0]
    wanted = reply.message
    assert (said.content, said.reasoning or "", said.tool_calls) == (
        wanted.content, wanted.reasoning or "", tuple(wanted.tool_calls),
    )  # fmt: skip
    assert response["status"] == ("incomplete" if reply.cut else "completed")
    assert [item["call_id"] for item in response["output"] if item["type"] == "function_call"] == [
        f"call_{3 + i}" for i in range(len(wanted.tool_calls))
    ]
    assert response["usage"]["total_tokens"] == 12
    told = list(events(response))
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[-1]["response"] == response
    assert [event["item"] for event in told if event["type"] == "response.output_item.done"] == response["output"]
    deltas = "".join(event["delta"] for event in told if event["type"] == "response.output_text.delta")
    assert deltas == wanted.content
