"""Who sits in which slot: the decoding rows in the first ones without a gap, prompts on their way in from the back.

Pure: it says which moves follow from a change, and others make them.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.upstreams.local.requests import Request


@dataclass(slots=True, eq=False, kw_only=True)
class Row:
    """A request that has a slot."""

    request: Request
    ends: frozenset[int]
    slot: int
    filled: int = 0
    """Tokens of its prompt that are in the cache."""
    launched: int = 0
    """Tokens that were, or are being, chosen for it."""
    tokens: int = 0
    """Tokens that it was told of."""
    engine_s: float = 0.0
    over: bool = False

    @property
    def held(self) -> int:
        """Tokens in its slot of the cache."""
        return self.filled + max(0, self.launched - 1)

    @property
    def missing(self) -> int:
        """Tokens of its prompt that are not in the cache yet."""
        return len(self.request.ids) - self.filled


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What `source` holds is wanted in `target`; `length` tokens of it."""

    source: int
    target: int
    length: int
    exchanged: bool = False
    """`target` is taken, and its row goes to `source`."""


class Rows:
    """At most `slots` of them."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self.decoding: list[Row] = []
        """The row of slot i is the i-th."""
        self.prefilling: list[Row] = []
        """In the order in which they were seated."""

    def __len__(self) -> int:
        return len(self.decoding) + len(self.prefilling)

    def all(self) -> list[Row]:
        return [*self.decoding, *self.prefilling]

    @property
    def free(self) -> int:
        return self._slots - len(self)

    def seat(self, request: Request, *, ends: frozenset[int]) -> Row:
        """In the last free slot: the first ones are for those that decode."""
        taken = {row.slot for row in self.prefilling}
        slot = next(slot for slot in reversed(range(len(self.decoding), self._slots)) if slot not in taken)
        row = Row(request=request, ends=ends, slot=slot)
        self.prefilling.append(row)
        return row

    def promote(self, row: Row) -> Move | None:
        """Its prompt is in the cache: it decodes from now on. The move this takes, if any."""
        self.prefilling.remove(row)
        source, target = row.slot, len(self.decoding)
        other = next((one for one in self.prefilling if one.slot == target), None)
        row.slot = target
        self.decoding.append(row)
        if other is not None:
            other.slot = source
        if source == target:
            return None
        length = row.held if other is None else max(row.held, other.held)
        return Move(source=source, target=target, length=length, exchanged=other is not None)

    def leave(self, row: Row) -> Move | None:
        """Its slot is free; the last decoding row closes the gap. The move this takes, if any."""
        if row in self.prefilling:
            self.prefilling.remove(row)
            return None
        last = self.decoding.pop()
        if last is row:
            return None
        move = Move(source=last.slot, target=row.slot, length=last.held)
        self.decoding[row.slot] = last
        last.slot = row.slot
        return move
