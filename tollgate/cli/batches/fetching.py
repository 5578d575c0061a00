"""The results of a batch as they are streamed, asked for again where a stream is cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tollgate.cli import output
from tollgate.cli.client import Gateway, lines_of
from tollgate.cli.connection import segment
from tollgate.cli.exits import GatewayUnreachableError, RefusedError

TRIES = 60
"""In a row that bring nothing."""
AGAIN_S = 1.0
PASSING = frozenset({429, 502, 503, 504})


class Patience:
    """With a gateway that is away for a moment. `rewarded` says that it is back."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._left = TRIES

    def bear(self, error: GatewayUnreachableError | RefusedError) -> None:
        """Wait before the next try. Raises `error` where there is none."""
        passing = isinstance(error, GatewayUnreachableError) or error.status in PASSING
        if not passing or self._left <= 1:
            raise error
        if self._left == TRIES:
            output.note(f"{error}; the results go on where they were as soon as it is back")
        self._left -= 1
        self._gateway.sleep(AGAIN_S)

    def rewarded(self) -> None:
        self._left = TRIES


def lines(gateway: Gateway, batch_id: str, asked: Mapping[str, str]) -> Iterator[bytes]:
    """In the order of the input, each with its end. After a cut, what came already is passed over: in that order it is
    the same again. Raises RefusedError, GatewayUnreachableError."""
    patience, got = Patience(gateway), 0
    while True:
        try:
            for number, line in enumerate(read(gateway, batch_id, asked), start=1):
                if number > got:
                    got = number
                    patience.rewarded()
                    yield line
            return
        except (GatewayUnreachableError, RefusedError) as error:
            patience.bear(error)


def read(gateway: Gateway, batch_id: str, asked: Mapping[str, str]) -> Iterator[bytes]:
    """One stream, each line with its end. A line that was cut is none: it is not told."""
    with gateway.stream(f"/batches/{segment(batch_id)}/results", params=asked) as response:
        for line in lines_of(response):
            yield line + b"\n"
