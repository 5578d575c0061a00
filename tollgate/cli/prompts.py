"""From what a user typed or keeps in a file to the bodies of POST /tasks. Pure.

Text: a prompt a line. JSONL: task objects, or the lines of an OpenAI or ZhipuAI batch file
(`{"custom_id": ..., "body": {...}}`). A line that cannot be used is kept with its problem; the rest goes on.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

Json = dict[str, Any]
Format = Literal["text", "jsonl"]
BATCH_URL_END = "/chat/completions"
"""`/v4/chat/completions` in ZhipuAI's batch files, `/v1/chat/completions` in OpenAI's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What the options say for every task that does not say it itself."""

    model: str
    system: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """temperature, max_tokens, label, priority, request_id, and whatever --param gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One prompt: its place, and the task that was made of it or why none was."""

    place: str
    """"prompts.jsonl:3", or "prompt 2" for an argument."""
    number: int
    task: Json | None = None
    problem: str | None = None
    custom_id: str | None = None


class LineError(ValueError):
    """This line cannot be a task; the message says why."""


def from_arguments(prompts: Iterable[str], *, defaults: Defaults) -> Iterator[Line]:
    """One task for each prompt of the command line. Raises UnicodeEncodeError at once if one is not UTF-8."""
    given = list(prompts)
    for prompt in given:
        prompt.encode("utf-8")
    return (
        _line(f"prompt {number}", number, functools.partial(from_text, prompt, defaults=defaults))
        for number, prompt in enumerate(given, start=1)
    )


def from_lines(raw: Iterable[bytes], *, name: str, form: Format, defaults: Defaults) -> Iterator[Line]:
    """A task for each line that is not blank. Lines end with \\n or \\r\\n, and are UTF-8."""
    read = from_json if form == "jsonl" else from_text
    for number, octets in enumerate(raw, start=1):
        stripped = octets.removeprefix(b"\xef\xbb\xbf").strip()
        if stripped:
            yield _line(f"{name}:{number}", number, functools.partial(_decoded, stripped, read, defaults))


def guess_format(name: str, first_line: bytes) -> Format:
    """By the file's name; by its first line where the name says nothing (stdin)."""
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    if "." in name.rpartition("/")[2]:
        return "text"
    return "jsonl" if first_line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b'{"') else "text"


def from_text(prompt: str, *, defaults: Defaults) -> Json:
    """A task that asks `prompt`. Raises LineError."""
    if not prompt.strip():
        raise LineError("the prompt is empty")
    return _completed({"messages": [{"role": "user", "content": prompt}]}, defaults)


def from_json(text: str, *, defaults: Defaults) -> Json:
    """A task object, or the task of a batch line. Raises LineError."""
    try:
        given = json.loads(text, parse_constant=_refuse_constant)
        json.dumps(given, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise LineError("it holds half of a surrogate pair, which is no character") from None
    except (ValueError, RecursionError) as error:
        raise LineError(f"not JSON: {error}") from None
    if not isinstance(given, dict):
        raise LineError(f"a JSON object is needed, this is {_kind(given)}")
    return _completed(_from_batch_line(given) if "body" in given else given, defaults)


def _from_batch_line(line: Json) -> Json:
    body, url = line["body"], line.get("url")
    if not isinstance(body, dict):
        raise LineError(f"body: a JSON object is needed, this is {_kind(body)}")
    if url is not None and not str(url).endswith(BATCH_URL_END):
        raise LineError(f"url: {url!r} is not a chat completion; only .../chat/completions is run")
    task = {name: value for name, value in body.items() if name != "stream"}
    if line.get("custom_id") is not None:
        task["custom_id"] = line["custom_id"]
    return task


def _completed(task: Json, defaults: Defaults) -> Json:
    """The line's own words win over the options."""
    if task.get("prompt") is None and not task.get("messages"):
        raise LineError('it has neither "prompt" nor "messages"')
    completed = {"model": defaults.model, **defaults.parameters}
    completed |= {name: value for name, value in task.items() if value is not None}
    if defaults.system is not None:
        completed = _with_system(completed, defaults.system)
    return completed


def _with_system(task: Json, system: str) -> Json:
    """Put the system message first, unless the task brings its own."""
    if task.get("prompt") is not None:
        task = {**task, "messages": [{"role": "user", "content": task["prompt"]}]}
        del task["prompt"]
    messages = task["messages"]
    if not isinstance(messages, list) or any(isinstance(m, dict) and m.get("role") == "system" for m in messages):
        return task
    return {**task, "messages": [{"role": "system", "content": system}, *messages]}


def _line(place: str, number: int, make: Callable[[], Json]) -> Line:
    try:
        task = make()
    except LineError as error:
        return Line(place=place, number=number, problem=str(error))
    custom_id = task.get("custom_id")
    return Line(place=place, number=number, task=task, custom_id=custom_id if isinstance(custom_id, str) else None)


def _decoded(octets: bytes, read: Callable[..., Json], defaults: Defaults) -> Json:
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LineError(f"not UTF-8: byte {error.start + 1} is {octets[error.start]:#04x}") from None
    return read(text, defaults=defaults)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
