"""`tollgate submit`: prompts in, ids out; with --wait the answers too."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.cli import exits, options, prompts

if TYPE_CHECKING:
    from tollgate.cli.prompts import Line

DEFAULT_MODEL = "glm-4-flash"
"""Free at ZhipuAI: who forgets --model pays nothing."""
STDIN = "-"

Prompts = Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="Prompts, each a task; - reads stdin.")]
File = Annotated[
    str | None,
    typer.Option(
        "--file", "-f", metavar="FILE", help="A prompt a line; .jsonl: a task or a batch line each. - is stdin."
    ),
]
Model = Annotated[str, typer.Option("--model", "-m", help="Where a line names none. glm-4-flash is free at ZhipuAI.")]
System = Annotated[str | None, typer.Option(help="A system message for every prompt that has none.")]
Temperature = Annotated[float | None, typer.Option(min=0, max=1, help="0 to 1.")]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="The longest answer, in tokens.")]
Label = Annotated[str | None, typer.Option(help="A dimension of the accounts: `tollgate usage --by label`.")]
RequestId = Annotated[
    str | None, typer.Option(help="Makes a submit repeatable: the same id, the same task. One prompt only.")
]
Priority = Annotated[str | None, typer.Option(metavar="interactive|bulk", help="Default: bulk for over 100 prompts.")]
CallbackUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Told of each task's end: an https URL. See `tollgate webhooks`.")
]
Param = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=JSON", help="Any other parameter of the task; repeatable.")
]
Wait = Annotated[bool, typer.Option("--wait", "-w", help="Wait for the answers and show them.")]
Stream = Annotated[bool, typer.Option("--stream", help="Show the answer as it is written. One prompt only.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the results as JSON lines; waits.")
]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(rich_help_panel="Tasks", epilog=exits.HELP)(submit)


def submit(
    *,
    given: Prompts = None,
    file: File = None,
    model: Model = DEFAULT_MODEL,
    system: System = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    label: Label = None,
    request_id: RequestId = None,
    priority: Priority = None,
    callback_url: CallbackUrl = None,
    param: Param = None,
    wait: Wait = False,
    stream: Stream = False,
    out: Out = None,
    as_json: options.AsJsonLines = False,
    url: options.Url = None,
    key: options.Key = None,
    data: options.Data = None,
) -> None:
    """Submit prompts. Prints the ids, or with --wait the answers, tokens and cost.

    A line that cannot be used or is refused fails alone: its number and the
    reason go to stderr, and the exit code is 1.

    Where a limit of the key has no room, it waits for it; a list that is longer
    than the limit of tasks in flight, or asks for more tokens than a minute
    has, is sent in shorter ones. Those that were accepted are not sent again.

    Examples:
      tollgate submit "Why is the sky blue?" --wait
      tollgate submit "Tell me a story." --stream
      tollgate submit --file prompts.jsonl --wait --out answers.jsonl
      cat prompts.txt | tollgate submit - --model glm-4-air --label nightly --json
    """
    from tollgate.cli import streaming, submitting

    parameters = {
        "temperature": temperature,
        "max_tokens": max_tokens,
        "label": label,
        "request_id": request_id,
        "priority": priority,
        "callback_url": callback_url,
        "stream": stream or None,
        **parse_parameters(param or []),
    }
    defaults = prompts.Defaults(
        model=model, system=system, parameters={name: value for name, value in parameters.items() if value is not None}
    )
    lines = read_lines(given or [], file, defaults=defaults)
    if request_id is not None:
        lines = iter(_single(list(lines)))
    if stream:
        told = {"--wait": wait, "--out": out is not None}
        if beside := [name for name, is_set in told.items() if is_set]:
            raise typer.BadParameter(f"it shows the answer by itself: leave {beside[0]} out", param_hint="--stream")
        only = _only(list(lines))
        with options.gateway(url=url, key=key, data=data) as gateway:
            raise typer.Exit(streaming.submit(gateway, only, as_json=as_json))
    with options.gateway(url=url, key=key, data=data) as gateway, submitting.open_out(out) as sink:
        plan = submitting.Plan(wait=wait or out is not None, as_json=as_json, out=sink)
        raise typer.Exit(submitting.run(gateway, lines, plan))


def read_lines(given: list[str], file: str | None, *, defaults: prompts.Defaults) -> Iterator[Line]:
    """The prompts of the arguments, of a file, or of stdin. Ends in a usage error where there is none."""
    if given == [STDIN]:
        given, file = [], file or STDIN
    if file is not None and given:
        raise typer.BadParameter("give prompts, or --file, not both")
    if file is None:
        if not given:
            raise typer.BadParameter('no prompt: write one ("..."), or --file FILE, or - for stdin')
        return prompts.from_arguments(given, defaults=defaults)
    name, raw = ("stdin", sys.stdin.buffer.readlines()) if file == STDIN else (file, _read(Path(file)))
    first = next((line for line in raw if line.removeprefix(b"\xef\xbb\xbf").strip()), None)
    if first is None:
        raise typer.BadParameter(f"{name} is empty: there is no prompt in it", param_hint="--file")
    return prompts.from_lines(raw, name=name, form=prompts.guess_format(name, first), defaults=defaults)


def parse_parameters(given: list[str], *, option: str = "--param") -> dict[str, Any]:
    """`NAME=JSON`; what is no JSON is a text."""
    parsed: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"{text!r}: write NAME=VALUE, for example top_p=0.9", param_hint=option)
        try:
            parsed[name.strip()] = json.loads(value)
        except ValueError:
            parsed[name.strip()] = value
    return parsed


def _read(path: Path) -> list[bytes]:
    try:
        # Lines end with \n alone: splitlines() would also cut at characters that stand inside a prompt.
        return path.read_bytes().split(b"\n")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}", param_hint="--file") from error


def _only(lines: list[Line]) -> Line:
    if len(lines) != 1:
        raise typer.BadParameter(f"it shows one answer, these are {len(lines)} prompts", param_hint="--stream")
    return lines[0]


def _single(lines: list[Line]) -> list[Line]:
    if len(lines) != 1:
        raise typer.BadParameter(
            f"one request_id names one task, these are {len(lines)}; put a request_id in each line of a .jsonl file",
            param_hint="--request-id",
        )
    return lines
