"""A record is the same however its deltas were cut, and a reader at any place gets the rest, once."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain.record import START, Offset, Record

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12)
pieces = st.one_of(
    st.builds(lambda text: {"content": text}, texts),
    st.builds(lambda text: {"reasoning_content": text}, texts),
    st.builds(lambda text: {"role": "assistant", "content": text}, texts),
    st.builds(
        lambda index, name, text: {
            "tool_calls": [{"index": index, "id": f"call_{index}", "function": {"name": name, "arguments": text}}]
        },
        st.integers(0, 2),
        st.sampled_from(["weather", "time"]),
        texts,
    ),
    st.sampled_from([{}, {"content": None}, {"tool_calls": None}, {"tool_calls": [None]}, {"content": 7}]),
)
deltas = st.lists(pieces, max_size=12)


def written(parts: list[dict[str, Any]]) -> Record:
    record = Record()
    for part in parts:
        record.add(part)
    return record


@given(deltas, st.data())
def test_a_reader_at_any_place_gets_what_it_has_not_seen(parts: list[dict[str, Any]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(parts)))
    seen, whole = written(parts[:cut]), written(parts)
    place = seen.offset
    assert seen.merge(place, whole.since(place))
    assert seen == whole
    assert whole.since(whole.offset) == {}


@given(deltas, st.lists(st.integers(0, 12), max_size=12))
def test_messages_that_are_repeated_or_lost_never_spoil_a_copy(parts: list[dict[str, Any]], order: list[int]) -> None:
    """Any of the tellings, in any order: each is taken or refused, and the whole mends what is missing."""
    record, tellings = Record(), []
    for part in parts:
        before = record.offset
        record.add(part)
        tellings.append((before, record.since(before)))
    copy = Record()
    for number in order:
        if number < len(tellings):
            before = copy.offset
            if not copy.merge(*tellings[number]):
                assert copy.offset == before
    assert copy.merge(START, record.since(START))
    assert copy == record


@given(deltas)
def test_the_finished_message_is_the_same_record(parts: list[dict[str, Any]]) -> None:
    record = written(parts)
    assert Record.of_message(record.message()) == record


@given(st.tuples(st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1)), st.lists(st.integers(0, 10**9 - 1), max_size=9))
def test_an_offset_is_what_its_text_says(of_texts: tuple[int, int], of_calls: list[int]) -> None:
    offset = Offset(of_texts, tuple(of_calls))
    assert Offset.parse(str(offset)) == offset


def test_what_is_no_offset() -> None:
    for text in ("", "1", "1.", ".1", "1.-2", "1.2.x", "²¹.1", "1" * 12 + ".1", "0." * 1000 + "0"):
        assert Offset.parse(text) is None, text


def test_calls_are_told_apart_by_whatever_index_they_have() -> None:
    def piece(index: int | None, **told: Any) -> dict[str, Any]:
        function = {name: told[name] for name in ("name", "arguments") if name in told}
        named = {"id": told["id"]} if "id" in told else {}
        return {"tool_calls": [{"index": index, **named, "function": function}]}

    record = written(
        [
            piece(3, id="a", name="f", arguments=""),
            piece(5, id="b", name="g", arguments="{"),
            piece(3, arguments='{"a"'),
            piece(5, arguments="}"),
            piece(3, arguments=":1}"),
        ]
    )
    assert [(call.id, call.name, call.arguments) for call in record.calls] == [("a", "f", '{"a":1}'), ("b", "g", "{}")]
    without = written(
        [piece(None, id="a", name="f", arguments="{"), piece(None, arguments="}"), piece(None, id="b", name="g")]
    )
    assert [(call.name, call.arguments) for call in without.calls] == [("f", "{}"), ("g", "")]


def test_a_call_is_told_with_its_name_or_not_yet() -> None:
    record = written([{"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": ""}}]}])
    assert record.since(START) == {}
    place = record.offset
    record.add({"tool_calls": [{"index": 0, "function": {"name": "f"}}]})
    [call] = record.since(place)["tool_calls"]
    assert (call["id"], call["function"]) == ("a", {"name": "f", "arguments": ""})


def test_only_tool_calls_leave_the_content_null() -> None:
    record = written([{"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]}])
    assert record.message() == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    assert Record().message() == {"role": "assistant", "content": ""}


def test_reasoning_by_its_other_name_and_by_both_is_told_once() -> None:
    record = Record()
    for delta in ({"reasoning": "so "}, {"reasoning": "it ", "reasoning_content": "it "}, {"content": "is"}):
        record.add(delta)
    assert record.message() == {"role": "assistant", "content": "is", "reasoning_content": "so it "}
    assert Record.of_message({"reasoning": "so it ", "content": "is"}) == record
