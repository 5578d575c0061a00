"""What an estimate takes for granted, in words: an estimate that does not say it is a guess."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.batches.tokens import Counter
from tollgate.domain.batches import Via
from tollgate.domain.estimates import Speed, Tally, Way
from tollgate.domain.experience import HIGH, LOW, UNSEEN_PROMPT

BY_CHARACTERS = "1.5 Chinese or 3.5 other characters a token, 4 tokens more a message"
OF_ALL = (
    "Low and high are where all lines err the same way; the costs of many lines mostly come near the likely figure.",
    "Nothing is read from an upstream's cache, no call is lost or bought twice, and no line goes to another route.",
)


def of_all(*, kept_ids: int, most: int) -> list[str]:
    """Of all lines. `kept_ids`: custom_ids that lines were compared with, of at most `most`."""
    if kept_ids < most:
        return list(OF_ALL)
    return [*OF_ALL, f"Lines were compared with the first {most:,} custom_ids: the batch refuses every repeated one."]


def of(tally: Tally, counter: Counter | None, *, broken: str | None, speeds: Mapping[str, Speed]) -> tuple[str, ...]:
    """Of one model's lines. `broken`: why its tokenizer could not be used."""
    told = [_prompts(tally, counter)]
    if broken is not None:
        told.append(f"{broken}.")
    if "chat" in tally.model.endpoints:
        told.append(_completions(tally))
    told += _prices(tally)
    told += _engines(tally)
    told += _times(tally, speeds)
    return tuple(told)


def _prompts(tally: Tally, counter: Counter | None) -> str:
    ratio = tally.prompt_ratio
    if counter is not None:
        return (
            f"Prompt tokens: {counter.lines:,} of {tally.lines:,} lines were counted by {counter.name}, with 4 tokens "
            "more a message; the others by their characters, times the ratio found."
        )
    if tally.experience.count:
        return (
            f"Prompt tokens: {BY_CHARACTERS}, times {ratio.likely:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), as "
            f"{_answers(tally)} were counted."
        )
    return (
        f"Prompt tokens: {BY_CHARACTERS} at most, times {UNSEEN_PROMPT.likely:.2f} as likely and "
        f"{UNSEEN_PROMPT.low:.2f} as low: nothing was counted yet."
    )


def _completions(tally: Tally) -> str:
    past = tally.experience
    if past.count:
        low, middle, high = (past.completion_quantile(q) for q in (LOW, 0.5, HIGH))
        return (
            f"Output tokens: as {_answers(tally)}, of which a tenth had {low:,} or fewer, half {middle:,} or fewer "
            f"and a tenth {high:,} or more; never more than a line's max_tokens. Likely is their mean."
        )
    return (
        f"Output tokens: {tally.model.name} has answered nothing yet in this project: a quarter of a line's "
        f"max_tokens, from a sixteenth to all of it; where a line sets none, of {past.assumed_max_tokens:,}."
    )


def _prices(tally: Tally) -> list[str]:
    ids = dict.fromkeys(way.price.id for way in tally.ways if way.price is not None)
    factor = next((way.factor for way in tally.ways if way.via is Via.UPSTREAM_BATCH and way.price), None)
    batch = f"; {float(factor):g} of it in an upstream's batch" if factor is not None else ""
    return [f"Price: {', '.join(ids)}{batch}."] if ids else []


def _engines(tally: Tally) -> list[str]:
    """One for each route to an engine, whose time is what its lines cost or take."""
    return list(dict.fromkeys(said for way in tally.ways if (said := _engine(tally, way))))


def _engine(tally: Tally, way: Way) -> str:
    if way.route is None or tally.engine_s(way) is None:
        return ""
    if way.local and (measured := tally.experience.engine_us_per_token):
        low, likely, high = (us / 1_000 for us in measured)
        return (
            f"Engine: {likely:.3g} ms of {way.route.id} a token ({low:.3g} to {high:.3g}), prompts and answers "
            "together, as past answers in this project took of it."
        )
    rate = way.price.engine if way.price is not None else None
    if rate is None:
        return ""
    return (
        f"Engine: {way.route.id} makes {rate.tokens_per_second:,} tokens a second, as its price says: nothing was "
        "measured yet. High, and the most of a line, are for lines that run alone, at "
        f"{rate.alone_tokens_per_second:,}."
    )


def _times(tally: Tally, speeds: Mapping[str, Speed]) -> list[str]:
    """Of the first route; and of an engine, where that is another."""
    told: dict[str, str] = {}
    for way in tally.ways:
        speed = speeds.get(way.route.id) if way.route is not None else None
        if way.route is not None and (engines := tally.engines(way, speed)):
            told[way.route.id] = (
                f"Time on {way.route.id}: what the engine will likely work for the lines, divided by {engines:,}, the "
                "engines there are now. What else runs there takes its share."
            )
    first = tally.model.routes[0].id
    return [told.pop(first, "") or _time(tally, speeds.get(first)), *told.values()]


def _time(tally: Tally, speed: Speed | None) -> str:
    route = tally.model.routes[0].id
    if speed is None:
        return f"Time: not known, as no worker calls {route} now."
    seconds = tally.experience.seconds
    slots = f"{speed.free:,} slots that are {'allowed' if speed.assumed else 'free'}"
    pace = f" at {seconds:.2g} s a call" if seconds is not None else ", at a pace that is not known yet"
    return (
        f"Time: {speed.settled_per_s:.3g} calls a second that end on {route} now, and {slots}{pace}. What else runs "
        "there takes its share; slots that are learned meanwhile make it shorter."
    )


def _answers(tally: Tally) -> str:
    return f"the last {tally.experience.count:,} answers of {tally.model.name} in this project"
