"""The forms of batches that were seen in the wild, each behind its switch; and files."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from zhipuai import APIRequestFailedError, APIStatusError

from tests.simulator.batching import Batching, jsonl, line, prompts
from tests.simulator.client import Start

FAILING = jsonl(*(line("[[fault:1261]]", custom_id=f"request-{number}") for number in range(4)))


async def raw(batching: Batching, batch_id: str) -> Any:
    return (await batching.client.send("GET", f"/batches/{batch_id}")).body


async def test_times_can_be_in_milliseconds(start: Start) -> None:
    batching = await Batching.begin(start, times="milliseconds")
    batch = await batching.run(prompts(1))
    assert batch.created_at > 10**12
    assert batch.expires_at == batch.created_at + 86_400_000


@pytest.mark.parametrize(("no_file", "told"), [("null", None), ("empty", "")])
async def test_the_id_of_no_file_can_be_empty(start: Start, no_file: str, told: str | None) -> None:
    batching = await Batching.begin(start, no_file=no_file)
    assert (await batching.run(prompts(1))).error_file_id == told
    assert (await batching.run(FAILING)).output_file_id == told


@pytest.mark.parametrize(
    ("counts", "told"), [("object", {"total": 3, "completed": 3, "failed": 0}), ("integer", 3), ("null", None)]
)
async def test_counts_come_in_three_forms(start: Start, counts: str, told: object) -> None:
    batching = await Batching.begin(start, counts=counts)
    assert (await raw(batching, (await batching.run(prompts(3))).id))["request_counts"] == told


@pytest.mark.parametrize(
    ("form", "path"),
    [
        ("response", ("response", "body", "error", "code")),
        ("error", ("error", "code")),
        ("flat", ("code",)),
        ("text", ("error",)),
    ],
)
async def test_error_lines_come_in_four_forms(start: Start, form: str, path: tuple[str, ...]) -> None:
    batching = await Batching.begin(start, error_form=form)
    found = (await batching.parsed((await batching.run(FAILING)).error_file_id))["request-0"]
    for key in path:
        found = found[key]
    assert "1261" in found


async def test_error_forms_can_be_mixed(start: Start) -> None:
    batching = await Batching.begin(start, error_form="mixed")
    lines = await batching.parsed((await batching.run(FAILING)).error_file_id)
    assert len({tuple(sorted(found)) for found in lines.values()}) > 1


async def test_output_can_be_out_of_order(start: Start) -> None:
    batching = await Batching.begin(start, order="shuffled")
    names = list(await batching.parsed((await batching.run(prompts(100))).output_file_id))
    assert sorted(names) == sorted(f"request-{number}" for number in range(100))
    assert names != [f"request-{number}" for number in range(100)]


async def test_lines_can_be_missing_or_garbled_unbilled(start: Start) -> None:
    batching = await Batching.begin(start, missing=0.3, garbled=0.3)
    batch = await batching.run(prompts(100))
    whole = garbled = 0
    for found in await batching.read(batch.output_file_id):
        try:
            whole += "custom_id" in orjson.loads(found)
        except orjson.JSONDecodeError:
            garbled += 1
    assert batch.status == "completed"
    assert garbled > 0
    assert whole + garbled < 100
    assert batching.client.simulator.bill.charges == whole


async def test_a_cut_line_is_billed(start: Start) -> None:
    batching = await Batching.begin(start)
    batch = await batching.run(jsonl(line("[[fault:cut]]", custom_id="request-1")))
    (found,) = await batching.read(batch.output_file_id)
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(found)
    assert batching.client.simulator.bill.charges == 1


@pytest.mark.parametrize(("fields", "left"), [({}, 0), ({"auto_delete_input_file": False}, 1)])
async def test_the_input_goes_with_the_batch_unless_told_not_to(
    start: Start, fields: dict[str, Any], left: int
) -> None:
    batching = await Batching.begin(start)
    batch = await batching.run(prompts(1), **fields)
    files = await asyncio.to_thread(batching.sdk.files.list, purpose="batch")
    names = [file.id for file in files.data]
    assert names.count(batch.input_file_id) == left
    assert batch.output_file_id in names


async def test_a_file_comes_back_as_it_was_sent(start: Start) -> None:
    batching = await Batching.begin(start)
    content = bytes(range(256)) * 10_000  # more than is kept in memory
    file = await batching.upload(content)
    assert (file.bytes, file.purpose, file.status) == (2_560_000, "batch", "processed")
    assert (await asyncio.to_thread(batching.sdk.files.content, file.id)).content == content
    deleted = await asyncio.to_thread(batching.sdk.files.delete, file.id)
    assert deleted.deleted
    with pytest.raises(APIStatusError):
        await asyncio.to_thread(batching.sdk.files.content, file.id)


async def test_a_file_that_is_too_large_is_435(start: Start) -> None:
    batching = await Batching.begin(start, bytes_max=1_000)
    assert (await batching.upload(b"x" * 1_000)).bytes == 1_000
    with pytest.raises(APIStatusError) as refused:
        await batching.upload(b"x" * 1_001)
    assert refused.value.status_code == 435


async def test_an_upload_has_a_purpose_and_a_file(start: Start) -> None:
    batching = await Batching.begin(start)
    with pytest.raises(APIRequestFailedError, match="1214"):
        await batching.upload(b"x", purpose="fun")
    assert (await batching.client.send("POST", "/files", raw=b"{}")).code == "1210"


async def test_files_are_listed_newest_first_by_purpose(start: Start) -> None:
    batching = await Batching.begin(start)
    made = [(await batching.upload(b"x", purpose=purpose)).id for purpose in ("batch", "retrieval", "batch")]
    files = batching.sdk.files
    assert [file.id for file in (await asyncio.to_thread(files.list)).data] == made[::-1]
    listed = await asyncio.to_thread(files.list, purpose="batch", limit=1)
    assert ([file.id for file in listed.data], listed.has_more) == ([made[2]], True)
    after = await asyncio.to_thread(files.list, purpose="batch", after=made[2])
    assert ([file.id for file in after.data], after.has_more) == ([made[0]], False)
    assert (await batching.client.send("GET", "/files?limit=0")).code == "1214"
