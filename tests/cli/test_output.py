from __future__ import annotations

import pytest

from tollgate.cli import answers, exits, output
from tollgate.cli.exits import BadFileError, GatewayUnreachableError, MissingKeyError, RefusedError
from tollgate.domain.errors import InvalidRequestError, NotFoundError, SettingsError, StoreUnavailableError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RefusedError(401, kind="unauthorized", message=""), exits.UNREACHABLE),
        (RefusedError(403, kind="forbidden", message=""), exits.UNREACHABLE),
        (RefusedError(503, kind="unavailable", message=""), exits.UNREACHABLE),
        (RefusedError(400, kind="invalid_request", message=""), exits.USAGE),
        (RefusedError(413, kind="too_large", message=""), exits.USAGE),
        (BadFileError(""), exits.USAGE),
        (RefusedError(404, kind="not_found", message=""), exits.FAILED),
        (RefusedError(500, kind="internal", message=""), exits.FAILED),
        (GatewayUnreachableError("", sent=False), exits.UNREACHABLE),
        (MissingKeyError(""), exits.UNREACHABLE),
        (StoreUnavailableError(""), exits.UNREACHABLE),
        (SettingsError(""), exits.USAGE),
        (InvalidRequestError("", field="x"), exits.USAGE),
        (NotFoundError("key", "x"), exits.FAILED),
        (ZeroDivisionError(), exits.FAILED),
    ],
)
def test_each_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert exits.code_of(error) == code


def test_an_answers_escape_sequences_do_not_reach_the_terminal() -> None:
    assert output.printable("a\x1b]0;title\x07b\r\n\tc\x9b1m\x7f") == "a\ufffd]0;title\ufffdb\n\tc\ufffd1m\ufffd"


def test_text_is_shortened_to_one_line() -> None:
    assert output.shortened("  a\n b\tc ") == "a b c"
    assert output.shortened("x" * 100, width=10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (None, "-"),
        ("0", "0.00"),
        ("1.5", "1.50"),
        ("0.0123", "0.0123"),
        ("1234567.1", "1,234,567.10"),
        ("1E-9", "0.000000001"),
    ],
)
def test_money_has_two_digits_at_least_and_no_exponent(amount: str | None, shown: str) -> None:
    assert output.money(amount) == shown


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        ({"choices": [{"message": {"content": "hi"}}]}, "hi"),
        ({"choices": [{"message": {"content": None, "tool_calls": [{"id": "1"}]}}]}, '[{"id": "1"}]'),
        ({"choices": []}, ""),
        ({"choices": [None]}, ""),
        (None, ""),
        ("garbage", ""),
    ],
)
def test_an_answer_is_found_in_whatever_came(result: object, answer: str) -> None:
    assert answers.answer_of({"result": result}) == answer


@pytest.mark.parametrize(
    ("task", "advice"),
    [
        ({"state": "succeeded", "error": None}, ""),
        ({"state": "cancelled", "error": {"code": "cancelled"}}, "Submit it again"),
        ({"state": "expired", "error": {"code": "expired"}}, "Is a worker running"),
        ({"state": "failed", "error": {"code": "1301"}}, "reword the prompt"),
        ({"state": "failed", "error": {"code": "1261"}}, "Shorten the prompt"),
        ({"state": "failed", "error": {"code": "odd"}, "attempts": [{"http_status": 400}]}, "Correct the request"),
        ({"state": "failed", "error": {"code": "timeout"}}, "No answer came"),
    ],
)
def test_a_failed_task_says_what_to_do(task: answers.Json, advice: str) -> None:
    said = answers.advice_of(task)
    assert advice in said
    assert bool(said) == bool(advice)


def test_every_reason_of_a_verdict_has_advice() -> None:
    from tollgate.domain import verdicts

    known = {value.reason for value in vars(verdicts).values() if isinstance(value, verdicts.Verdict)}
    assert known - {"duplicate_request_id"} == set(answers.ADVICE)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min"), (125, "2 min 5 s"),
     (3_599.6, "1 h 0 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)  # fmt: skip
def test_a_duration_has_the_two_units_that_matter(seconds: float, shown: str) -> None:
    assert output.duration(seconds) == shown


def test_rough_money_has_four_digits() -> None:
    assert [output.rough_money(amount) for amount in ("0.00123456", "1234.567", "0", None)] == [
        "0.001235", "1,235.00", "0.00", "-"
    ]  # fmt: skip
