"""Runs one line of a batch: what befalls it, its answer, its charge."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from tollgate.domain.usage import TokenUsage
from tollgate.simulator import answers, batch_lines, calls, embeddings, wire
from tollgate.simulator.batch_book import Batch
from tollgate.simulator.batch_lines import Line
from tollgate.simulator.cloud import Cloud
from tollgate.simulator.codes import CODES, RefusalError
from tollgate.simulator.faults import Fate, FaultKind


class LineFate(StrEnum):
    """What becomes of a line. Only an answer is billed, and what was cut of one."""

    ANSWERED = "answered"
    FAILED = "failed"
    UNFINISHED = "unfinished"
    MISSING = "missing"
    GARBLED = "garbled"
    CUT = "cut"


HOOKED: Mapping[FaultKind, LineFate] = {
    FaultKind.RATE_LIMIT: LineFate.FAILED,
    FaultKind.SERVER_ERROR: LineFate.FAILED,
    FaultKind.SENSITIVE: LineFate.FAILED,
    FaultKind.TASK_FAIL: LineFate.FAILED,
    FaultKind.CODE: LineFate.FAILED,
    FaultKind.GARBAGE: LineFate.GARBLED,
    FaultKind.HANG: LineFate.UNFINISHED,
    FaultKind.CUT: LineFate.CUT,
    FaultKind.STREAM_CUT: LineFate.CUT,
}
"""What a fault that a prompt's hook asks for does to a line; the others show in the answer."""
_CODES = {FaultKind.SENSITIVE: "1301", FaultKind.TASK_FAIL: "1234"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A line's fate, and the line for the output or the error file; `raw` is empty for one that has none."""

    fate: LineFate
    raw: bytes = b""


def run(cloud: Cloud, batch: Batch, line: Line) -> Outcome:
    """The outcome of `line`, charged at the batch price if it has an answer."""
    drawn = _drawn(batch, cloud.draw_line())
    try:
        if batch_lines.endpoint_of(batch.endpoint) == "/embeddings":
            return _embed(cloud, batch, line, drawn=drawn)
        return _chat(cloud, batch, line, drawn=drawn)
    except RefusalError as refusal:
        return refuse(cloud, batch, line, refusal=refusal)


def refuse(cloud: Cloud, batch: Batch, line: Line, *, refusal: RefusalError) -> Outcome:
    """The outcome of a line that is answered with an error."""
    code = refusal.code or str(refusal.http_status)
    raw = batch_lines.failed(
        _line_id(cloud),
        custom_id=line.custom_id,
        status=refusal.http_status,
        code=code,
        message=str(refusal),
        form=batch.behaviour.error_form,
        number=line.number,
    )
    return Outcome(fate=LineFate.FAILED, raw=raw)


def _drawn(batch: Batch, drawn: float) -> LineFate:
    shares, edge = batch.behaviour, 0.0
    for fate in (LineFate.FAILED, LineFate.UNFINISHED, LineFate.MISSING, LineFate.GARBLED):
        edge += getattr(shares, fate)
        if drawn < edge:
            return fate
    return LineFate.ANSWERED


def _chat(cloud: Cloud, batch: Batch, line: Line, *, drawn: LineFate) -> Outcome:
    call = calls.parse_chat(line.body, knows=cloud.knows, settings=cloud.settings)
    call = replace(call, request_id=call.request_id or line.custom_id)
    asked = cloud.asked_fate(call)
    fate = drawn
    if asked is not None and asked.kind is not None:
        fate = HOOKED.get(asked.kind, LineFate.ANSWERED)
    if fate is LineFate.FAILED:
        raise _refusal(cloud, asked)
    answer = answers.compose(
        call, identifier=cloud.next_identifier(), created=int(time.time()), kind=asked.kind if asked else None
    )
    body = wire.completion(answer)
    return _answer(cloud, batch, line, fate=fate, model=call.model, used=answer.usage, body=body)


def _embed(cloud: Cloud, batch: Batch, line: Line, *, drawn: LineFate) -> Outcome:
    call = calls.parse_embeddings(line.body, knows=cloud.knows, settings=cloud.settings)
    if drawn is LineFate.FAILED:
        raise _refusal(cloud, None)
    used = TokenUsage(prompt_tokens=call.prompt_tokens)
    dimensions = call.dimensions or cloud.settings.embedding_dimensions
    vectors = [embeddings.vector(text, model=call.model, dimensions=dimensions) for text in call.texts]
    body = wire.embeddings(call.model, vectors=vectors, used=used) | {"request_id": call.request_id or line.custom_id}
    return _answer(cloud, batch, line, fate=drawn, model=call.model, used=used, body=body)


def _refusal(cloud: Cloud, asked: Fate | None) -> RefusalError:
    """The error of a line that fails: the hook's, else 1234."""
    kind = asked.kind if asked else None
    if asked is not None and kind is FaultKind.CODE:
        return RefusalError(asked.code)
    if kind is FaultKind.RATE_LIMIT:
        code = cloud.settings.rate_limit_code
        return RefusalError(None if code == "none" else code, http_status=429)
    if kind is FaultKind.SERVER_ERROR:
        code = cloud.settings.server_error_code
        return RefusalError(None if code == "none" else code, http_status=cloud.settings.server_error_status)
    code = _CODES.get(kind, "1234") if kind else "1234"
    return RefusalError(code, http_status=CODES[code][0])


def _answer(
    cloud: Cloud,
    batch: Batch,
    line: Line,
    *,
    fate: LineFate,
    model: str,
    used: TokenUsage,
    body: dict[str, object],
) -> Outcome:
    """The output line as `fate` has it, billed where an answer was computed."""
    request_id = str(body["request_id"])
    identifier = str(body.get("id") or cloud.next_identifier())
    billed = fate in {LineFate.ANSWERED, LineFate.CUT} or (fate is LineFate.GARBLED and cloud.settings.bill_errors)
    if billed:
        cloud.charge(
            used,
            model=model,
            request_id=request_id,
            identifier=identifier,
            created=int(time.time()),
            batch_id=batch.identifier,
        )
    raw = batch_lines.answered(_line_id(cloud), custom_id=line.custom_id, request_id=request_id, body=body)
    match fate:
        case LineFate.CUT:
            raw = batch_lines.cut(raw)
        case LineFate.GARBLED:
            raw = wire.garbage(raw, turn=line.number)[0].strip() + b"\n"
        case LineFate.UNFINISHED:
            raw = batch_lines.unfinished(_line_id(cloud), custom_id=line.custom_id)
        case LineFate.MISSING:
            raw = b""
        case _:
            pass
    return Outcome(fate=fate, raw=raw)


def _line_id(cloud: Cloud) -> str:
    return f"batch_req_{cloud.next_identifier()}"
