"""One answer as it is written: tokens in, deltas of its message out, and why it ends."""

from __future__ import annotations

from collections.abc import Sequence

from tollgate.domain.record import Record
from worker.upstreams.local.stops import StopStrings
from worker.upstreams.local.thoughts import Thoughts
from worker.upstreams.local.tokenizers import Tokenizer
from worker.upstreams.upstream import Writer


class Writing:
    """`ends`: the tokens that end an answer, and are no part of it. `thoughts`: None for a model that has none."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        ends: frozenset[int],
        stop: Sequence[str],
        thoughts: Thoughts | None,
        writer: Writer | None,
    ) -> None:
        self._text = tokenizer.stream()
        self._ends = ends
        self._stops = StopStrings(stop)
        self._thoughts = thoughts
        self._writer = writer
        self._record = writer.record if writer is not None else Record()
        self.tokens = 0
        """Sampled up to the answer's end, the token that ends it among them."""

    @property
    def stopped(self) -> bool:
        """By a stop string: what is sampled after it belongs to nobody."""
        return self._stops.hit

    @property
    def message(self) -> dict[str, object]:
        """Of the finished answer."""
        return self._record.message()

    def feed(self, ids: Sequence[int]) -> None:
        """The next tokens."""
        text = ""
        for token in ids:
            if self.stopped:
                break
            self.tokens += 1
            if token not in self._ends:
                text += self._stops.feed(self._text.feed(token))
        self._write(text)

    def finish(self) -> None:
        """All tokens are here."""
        if not self.stopped:
            self._write(self._stops.feed(self._text.flush()))
            self._write(self._stops.flush())
        if self._thoughts is not None:
            self._add(self._thoughts.flush())

    def _write(self, text: str) -> None:
        if text:
            self._add({"content": text} if self._thoughts is None else self._thoughts.feed(text))

    def _add(self, delta: dict[str, str]) -> None:
        if delta:
            (self._writer or self._record).add(delta)
