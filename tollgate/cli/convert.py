"""`tollgate models convert`: a ChatGLM checkpoint into one that the local engine runs."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tollgate.cli import exits, options, output
from tollgate.domain.errors import SettingsError

if TYPE_CHECKING:
    from worker.upstreams.local.chatglm.conversion import Converted

NAMES = {
    "tokenizer": "tokenizer",
    "own code": "running the original",
    "weights": "writing the weights",
    "comparing": "comparing with the original",
}
"""The steps, as they are shown."""


def register(family: typer.Typer) -> None:
    """Add the command to `family`."""
    family.command("convert")(convert)


def convert(
    original: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="The original: its folder, or its name on the hub, such as chatglm3-6b."),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write. It must not exist, or be empty.")],
    generation: Annotated[
        int | None, typer.Option(min=2, max=3, help="2 or 3, where the files do not tell ChatGLM2 from ChatGLM3.")
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run the checkpoint's own code too, and compare with what it answers."
        ),
    ] = False,
    python: Annotated[
        str, typer.Option(metavar="PATH", help="The interpreter that runs it, with transformers 4. Default: this one.")
    ] = sys.executable,
    as_json: options.AsJson = False,
) -> None:
    """Turn a ChatGLM2 or ChatGLM3 checkpoint (also int4) into a native one for `tollgate worker --model DIR`.

    Needs the memory of one layer, and the disk space of the weights in half precision. What is written is compared with
    the original, tokens and logits; where they differ, nothing is left behind. No code of the
    checkpoint is run, unless --trust-remote-code says so.

    Examples:
      tollgate models convert chatglm3-6b ./chatglm3-6b-native
      tollgate models convert /models/chatglm2-6b-int4 /models/chatglm2-6b-native
    """
    with _extra_local():
        from worker.upstreams.local.chatglm import conversion, originals
        from worker.upstreams.local.chatglm.errors import DestinationError, OriginalError
    source = originals.find(original)
    try:
        with _bar() as told:
            made = conversion.convert(
                source,
                folder.expanduser().absolute(),
                generation=generation,
                trusted_python=python if trust_remote_code else None,
                told=told,
            )
    except (OriginalError, DestinationError) as error:
        raise exits.BadFileError(str(error)) from error
    if as_json:
        output.json_line(as_object(made))
    else:
        for line in lines(made):
            print(line)


def lines(made: Converted) -> list[str]:
    """What was made, and which checks it passed."""
    agreement = made.agreement
    unpacked = f", unpacked from int{made.unpacked_bits}" if made.unpacked_bits else ""
    told = [
        f"{made.folder}: ChatGLM{made.generation} as a native GLM, {made.bytes / 1e9:.1f} GB of weights{unpacked}",
        f"tokenizer: the same tokens as sentencepiece on {output.count(made.texts, 'text')}",
        f"logits: at most {agreement.difference:.1e} from the original's formulas in float32 (their spread is "
        f"{agreement.spread:.1f}), all layers, {agreement.tokens} tokens, {agreement.words:,} logits each",
    ]
    if agreement.code_difference is not None:
        told.append(f"logits: at most {agreement.code_difference:.1e} from what the original's own code answers")
    return [*told, f"run it: tollgate worker --lanes local --model {shlex.quote(str(made.folder))}"]


def as_object(made: Converted) -> dict[str, Any]:
    agreement = made.agreement
    return {
        "folder": str(made.folder),
        "generation": made.generation,
        "bytes": made.bytes,
        "unpacked_bits": made.unpacked_bits,
        "texts_compared": made.texts,
        "tokens_compared": agreement.tokens,
        "logit_difference": agreement.difference,
        "logit_spread": agreement.spread,
        "logit_difference_of_own_code": agreement.code_difference,
    }


@contextlib.contextmanager
def _extra_local() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise SettingsError(f"a conversion needs the extra local ({error}): pip install 'tollgate[local]'") from error


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar a step on stderr, where that is a terminal."""
    console = output.console(stderr=True)
    if not console.is_terminal:
        yield lambda *_: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        rows = {step: bar.add_task(name, total=None, visible=False) for step, name in NAMES.items()}
        yield lambda step, done, total: bar.update(rows[step], completed=done, total=total, visible=True)
