"""What a model has written so far: the text, the reasoning and the tool calls of one attempt, as deltas make them.

Deltas are those of a chat completion's chunks (OpenAI's and ZhipuAI's form): `content`, `reasoning_content`,
`tool_calls` with an index, arguments in pieces. A position in a record is an Offset: how many characters there are of
each part. It does not depend on how the parts were cut, so a reader can go on with another record of the same attempt:
a copy elsewhere, or the finished answer.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

TEXTS = ("reasoning_content", "content")
"""In the order in which models write them, and tool calls after them."""
OTHER_NAMES = {"reasoning_content": "reasoning"}
"""vLLM's (github.com/vllm-project/vllm/pull/33402 took the first away) and OpenRouter's. Of both, one is read."""
_OFFSET = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){1,130}")
Delta = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Offset:
    """`texts`: characters of each of TEXTS. `calls`: of each tool call's arguments; one with none yet counts 0."""

    texts: tuple[int, int] = (0, 0)
    calls: tuple[int, ...] = ()

    def __str__(self) -> str:
        """As in an event's id: reasoning, content, tool calls: "0.12.5"."""
        return ".".join(map(str, (*self.texts, *self.calls)))

    @classmethod
    def parse(cls, text: str) -> Offset | None:
        """None for what is none."""
        if not _OFFSET.fullmatch(text):
            return None
        reasoning, content, *calls = map(int, text.split("."))
        return cls((reasoning, content), tuple(calls))


START = Offset()


@dataclass(slots=True)
class ToolCall:
    id: str = ""
    type: str = "function"
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Record:
    """Grows by `add`, or as a copy of another by `merge`."""

    texts: list[str] = field(default_factory=lambda: ["", ""])
    calls: list[ToolCall] = field(default_factory=list)
    _positions: dict[int, int] = field(default_factory=dict, compare=False)
    """By the index that the writer gives a call: it may begin anywhere, and leave gaps."""

    @classmethod
    def of_message(cls, message: Mapping[str, Any]) -> Record:
        """Of a finished answer's message."""
        record = cls([_part(message, name) for name in TEXTS])
        listed = message.get("tool_calls")
        for call in listed if isinstance(listed, list) else ():
            record._add_call(call if isinstance(call, Mapping) else {}, position=len(record.calls))
        return record

    @property
    def offset(self) -> Offset:
        """Its end."""
        reasoning, content = self.texts
        return Offset((len(reasoning), len(content)), tuple(len(call.arguments) for call in self._told_calls()))

    def add(self, delta: Mapping[str, Any]) -> None:
        """What an upstream wrote next. Parts of other types than theirs are passed over."""
        for i, name in enumerate(TEXTS):
            self.texts[i] += _part(delta, name)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, Mapping):
                self._add_call(call, position=self._position_of(call))

    def since(self, offset: Offset) -> Delta:
        """What a reader at `offset` has not seen; {} where that is nothing."""
        delta: Delta = {}
        for name, text, seen in zip(TEXTS, self.texts, offset.texts, strict=True):
            if len(text) > seen:
                delta[name] = text[seen:]
        calls = []
        for index, call in enumerate(self._told_calls()):
            if index >= len(offset.calls):
                function = {"name": call.name, "arguments": call.arguments}
                calls.append({"index": index, "id": call.id, "type": call.type, "function": function})
            elif len(call.arguments) > offset.calls[index]:
                calls.append({"index": index, "function": {"arguments": call.arguments[offset.calls[index] :]}})
        if calls:
            delta["tool_calls"] = calls
        return delta

    def merge(self, start: Offset, delta: Mapping[str, Any]) -> bool:
        """Take over what another record of the attempt has since `start`; what is here already is not repeated.

        False, and nothing is taken, where something before `start` is missing here."""
        here = self.offset
        if any(theirs > ours for theirs, ours in zip(start.texts, here.texts, strict=True)):
            return False
        if len(start.calls) > len(here.calls) or any(
            theirs > ours for theirs, ours in zip(start.calls, here.calls, strict=False)
        ):
            return False
        calls = delta.get("tool_calls", ())
        if any(not 0 <= call["index"] < len(self.calls) + len(calls) for call in calls):
            return False
        for i, name in enumerate(TEXTS):
            self.texts[i] += _text(delta.get(name))[here.texts[i] - start.texts[i] :]
        for call in calls:
            index, function = call["index"], call["function"]
            known = here.calls[index] if index < len(here.calls) else 0
            began = start.calls[index] if index < len(start.calls) else 0
            rest = {**function, "arguments": function["arguments"][known - began :]}
            self._add_call({**call, "function": rest}, position=index)
        return True

    def message(self) -> dict[str, Any]:
        """As the message of a finished answer: `content` is null where there are only tool calls."""
        reasoning, content = self.texts
        message: dict[str, Any] = {"role": "assistant", "content": content if content or not self.calls else None}
        if reasoning:
            message["reasoning_content"] = reasoning
        if self.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": call.type, "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.calls
            ]
        return message

    @property
    def written(self) -> tuple[str, ...]:
        """All texts, to estimate tokens by."""
        return tuple(text for text in (*self.texts, *(call.name + call.arguments for call in self.calls)) if text)

    def _told_calls(self) -> Iterator[ToolCall]:
        """A call is told from its name on, and in order: a reader could do nothing with the rest before."""
        return itertools.takewhile(lambda call: call.name, self.calls)

    def _add_call(self, given: Mapping[str, Any], *, position: int) -> None:
        while position >= len(self.calls):
            self.calls.append(ToolCall())
        call, function = self.calls[position], given.get("function")
        call.id = call.id or _text(given.get("id"))
        call.type = _text(given.get("type")) or call.type
        if isinstance(function, Mapping):
            call.name = call.name or _text(function.get("name"))
            call.arguments += _text(function.get("arguments"))

    def _position_of(self, given: Mapping[str, Any]) -> int:
        """Without an index, one with an id is a new call, and any other goes on with the last."""
        index = given.get("index")
        if isinstance(index, int) and not isinstance(index, bool):
            return self._positions.setdefault(index, len(self.calls))
        return len(self.calls) if given.get("id") or not self.calls else len(self.calls) - 1


def _part(given: Mapping[str, Any], name: str) -> str:
    return _text(given.get(name)) or _text(given.get(OTHER_NAMES.get(name, "")))


def _text(given: object) -> str:
    return given if isinstance(given, str) else ""
