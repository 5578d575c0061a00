from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain import bill_file
from tollgate.domain.bill_file import BadLine, Charge
from tollgate.domain.ids import new_id
from tollgate.domain.usage import TokenUsage
from tollgate.simulator.bill import HEADER, Bill
from tollgate.store.claims import upstream_request_id

HEAD = "request_id,cost\n"


def read(text: str) -> list[Charge | BadLine]:
    return list(bill_file.read(text.splitlines(keepends=True), name="bill.csv"))


def test_a_line_is_a_charge() -> None:
    head = "request_id,cost,prompt_tokens,cached_tokens,completion_tokens,created\n"
    assert read(head + "r-1,0.0125,10,2,30,1772368200\n") == [
        Charge(
            request_id="r-1",
            cost_nano=12_500_000,
            prompt_tokens=10,
            cached_tokens=2,
            completion_tokens=30,
            created=datetime(2026, 3, 1, 12, 30, tzinfo=UTC),
        )
    ]


@pytest.mark.parametrize(
    "text",
    [
        "cost,model,request_id\n0.5,glm,r-1\n",
        "\ufeffrequest_id,cost\nr-1,0.5\n",
        '\ufeff"request_id","cost"\r\n"r-1","0.5"\r\n',
        " Request_ID , COST \n r-1 , 0.5 \n",
        'request_id,note,cost\nr-1,"a, ""b""\nand more",0.5\n',
        "request_id,cost\n\n \nr-1,0.50\n\n",
        "request_id,cost,prompt_tokens,created\nr-1,5e-1,,yesterday\n",
        "request_id,cost,prompt_tokens\nr-1,.5\n",
    ],
    ids=range(8),
)
def test_the_form_of_the_file_does_not_matter(text: str) -> None:
    assert read(text) == [Charge(request_id="r-1", cost_nano=500_000_000)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (",0.5", "request_id is empty"),
        ("r-1", "cost '' is no decimal number"),
        ("r-1,free", "cost 'free' is no decimal number"),
        ("r-1,1_000", "cost '1_000' is no decimal number"),
        ("r-1,NaN", "cost 'NaN' is no decimal number"),
        ("r-1,1e99", "1E+99 is not an amount of money"),
        ("r-1,1000001", "cost '1000001' is too much for one call"),
        (f"{'r' * 257},1", "request_id: 1 to 256 characters"),
        ("r\0-1,1", "request_id: 1 to 256 characters"),
        ("r-1,1,-3", "prompt_tokens '-3' is no number"),
        ("r-1,1,many", "prompt_tokens 'many' is no number"),
        ('"r-1"x,1', "',' expected after '\"'"),
    ],
)
def test_a_bad_line_is_told_with_its_number_and_the_others_are_read(line: str, reason: str) -> None:
    before, bad, after = read(f"request_id,cost,prompt_tokens\nr-0,1\n{line}\nr-2,2\n")
    assert [one.request_id for one in (before, after) if isinstance(one, Charge)] == ["r-0", "r-2"]
    assert isinstance(bad, BadLine)
    assert bad.number == 3
    assert bad.reason.startswith(reason)


def test_a_quote_that_is_never_closed_says_which_lines_it_took() -> None:
    (bad,) = read(HEAD + '"r-1,1\nr-2,2\nr-3,3\n')
    assert isinstance(bad, BadLine)
    assert (bad.number, bad.reason) == (2, "unexpected end of data (lines 2 to 4)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name the column request_id and cost; it names: none"),
        ("id;cost\nr;1\n", "must name the column request_id and cost; it names: id;cost"),
        ("request_id,amount\n", "must name the column cost; it names: request_id, amount"),
        ("request_id,cost,cost\n", "the column cost is there 2 times"),
        ('"request_id,cost\n', "the first line is no CSV"),
    ],
)
def test_a_file_without_the_columns_names_those_found(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^bill\.csv: ") as raised:
        bill_file.read(text.splitlines(keepends=True), name="bill.csv")
    assert message in str(raised.value)


@pytest.mark.parametrize("number", [1, 4, 123])
def test_our_request_ids_name_their_attempt(number: int) -> None:
    task_id = new_id()
    charge = Charge(request_id=upstream_request_id(task_id, number), cost_nano=1)
    assert charge.attempt == (task_id, number)


@pytest.mark.parametrize("request_id", ["r-1", f"{UUID(int=1)}-1", f"{'0' * 32}-0", f"{'0' * 32}-1 ", f"{'0' * 32}-x"])
def test_other_request_ids_name_none(request_id: str) -> None:
    assert Charge(request_id=request_id, cost_nano=1).attempt is None


@pytest.mark.parametrize(
    "text", ["1772368200", "1772368200.0", "2026-03-01T12:30:00Z", "2026-03-01 12:30:00", "2026-03-01T20:30:00+08:00"]
)
def test_the_time_of_a_charge_is_utc(text: str) -> None:
    (charge,) = read(f"request_id,cost,created\nr-1,1,{text}\n")
    assert isinstance(charge, Charge)
    assert charge.created == datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs"]), max_size=40), max_size=8))
def test_no_text_is_fatal(lines: list[str]) -> None:
    text = HEAD + "\n".join(lines)
    assert all(isinstance(one, Charge | BadLine) for one in read(text))


def test_the_simulators_bill_is_read() -> None:
    bill = Bill()
    used = TokenUsage(prompt_tokens=7, cached_tokens=1, completion_tokens=9)
    bill.add(used, price=None, model='glm "x"', request_id="r,1", identifier="i", created=1_772_368_200)
    (charge,) = read(b"".join(bill.csv()).decode())
    assert isinstance(charge, Charge)
    assert (charge.request_id, charge.cost_nano, charge.prompt_tokens) == ("r,1", 0, 7)
    assert HEADER.startswith(b"request_id,")
