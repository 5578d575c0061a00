"""When a polled call is given up, and how often it is asked for."""

from __future__ import annotations

import pytest

from tollgate.domain.errors import PollError, UpstreamError
from worker import polling
from worker.polling import Misses

GONE = PollError("no such call", http_status=404)
UNREADABLE = PollError("no choices", http_status=200, kind="garbage")
REFUSED = PollError("bad key", code="1002", http_status=401)
PASSING = [
    PollError("too fast", code="1302", http_status=429),
    PollError("broken", http_status=503),
    PollError("cut", kind="cut"),
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of patience would tell no more: only the count of misses is left."""
    monkeypatch.setattr(polling, "PATIENCE_S", 0.0)


def note(misses: Misses, error: PollError, *, times: int) -> None:
    for _ in range(times):
        misses.note(error)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("error", [GONE, UNREADABLE], ids=["gone", "unreadable"])
def test_a_call_is_lost_with_the_fifth_useless_answer_in_a_row(error: PollError) -> None:
    misses = Misses()
    note(misses, error, times=polling.MISSES - 1)
    with pytest.raises(UpstreamError, match="the call is lost") as caught:
        misses.note(error)
    assert not isinstance(caught.value, PollError)
    assert (caught.value.kind, caught.value.code, caught.value.http_status) == ("cut", None, None)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_again_and_again_loses_no_call(status: int) -> None:
    misses, error = Misses(), PollError("bad key", http_status=status)
    note(misses, error, times=polling.MISSES - 1)
    with pytest.raises(PollError) as caught:
        misses.note(error)
    assert caught.value is error


def test_five_useless_answers_within_the_patience_end_nothing() -> None:
    note(Misses(), GONE, times=polling.MISSES + 1)


@pytest.mark.usefixtures("impatient")
def test_what_will_pass_ends_nothing_however_often() -> None:
    for error in PASSING:
        note(Misses(), error, times=10 * polling.MISSES)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("other", [UNREADABLE, REFUSED, *PASSING], ids=str)
def test_another_answer_in_between_starts_the_count_anew(other: PollError) -> None:
    misses = Misses()
    note(misses, GONE, times=polling.MISSES - 1)
    misses.note(other)
    note(misses, GONE, times=polling.MISSES - 1)
    with pytest.raises(UpstreamError, match="the call is lost"):
        misses.note(GONE)


@pytest.mark.parametrize(
    ("age_s", "waits_s"), [(-5.0, 0.5), (0.0, 0.5), (2.5, 0.5), (10.0, 2.0), (50.0, 10.0), (1e6, 10.0)]
)
def test_a_poll_waits_a_fifth_of_the_calls_age_within_bounds(age_s: float, waits_s: float) -> None:
    assert polling.wait_s(age_s, jitter=0.5) == pytest.approx(waits_s)


def test_jitter_spreads_polls_by_half_around_their_time() -> None:
    assert polling.wait_s(0.0, jitter=0.0) == pytest.approx(0.375)
    assert polling.wait_s(0.0, jitter=1.0) == pytest.approx(0.625)
