"""/files in the three dialects: uploaded, shown, listed, fetched and deleted, and never another project's."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest

from tests.gateway.conftest import OpenGate
from tests.gateway.gate import V4, Caller, Gate, refusal
from tests.store.test_files import read_from
from tollgate.domain.batches import BatchState

NATIVE = {
    "id", "object", "filename", "purpose", "bytes", "lines", "sha256", "batch_id", "created_at", "expires_at",
}  # fmt: skip
CONTENT = b'{"custom_id": "1"}\r\n\n{"custom_id": "2"}'
PREFIXES = ("", "/v1", V4)
NO_ID = "01970000-0000-7000-8000-000000000000"


async def upload(caller: Caller, content: bytes = CONTENT, *, prefix: str = "/v1", **form: Any) -> Any:
    """As a form."""
    response = await send_form(caller, content, prefix=prefix, **form)
    assert response.status_code == (201 if prefix == "" else 200), response.text
    return response.json()


async def send_form(
    caller: Caller, content: bytes, *, prefix: str = "/v1", filename: str = "in.jsonl", **fields: Any
) -> httpx2.Response:
    return await caller.http.post(
        f"{prefix}/files",
        data={"purpose": "batch", **fields},
        files={"file": (filename, content, "application/octet-stream")},
        headers={"Authorization": f"Bearer {caller.key}"},
    )


async def content_of(caller: Caller, file_id: str, *, prefix: str = "/v1", **headers: str) -> httpx2.Response:
    auth = {"Authorization": f"Bearer {caller.key}"}
    return await caller.http.get(f"{prefix}/files/{file_id}/content", headers={**auth, **headers})


def kept(gate: Gate) -> list[str]:
    """What stands in the folder."""
    folder = gate.services.settings.files_folder
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


async def test_one_is_uploaded_as_it_is_and_shown(gate: Gate, caller: Caller) -> None:
    response = await caller.send("POST", "/files", content=CONTENT, params={"filename": "提示.jsonl"})
    assert response.status_code == 201
    made = response.json()
    assert set(made) == NATIVE
    assert (made["filename"], made["purpose"], made["bytes"], made["lines"]) == ("提示.jsonl", "batch", len(CONTENT), 2)
    assert made["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert await caller.get(f"/files/{made['id']}") == made
    assert (await caller.get("/files"))["data"] == [made]
    assert kept(gate) == [made["id"]]


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_the_same_file_stands_in_every_dialect(gate: Gate, caller: Caller, prefix: str) -> None:
    made = await upload(caller, prefix=prefix)
    told = await caller.get(f"/v1/files/{made['id']}")
    created, expires = told.pop("created_at"), told.pop("expires_at")
    assert told == {
        "id": made["id"], "object": "file", "bytes": len(CONTENT), "filename": "in.jsonl", "purpose": "batch",
        "status": "processed",
    }  # fmt: skip
    assert abs(created - datetime.now(UTC).timestamp()) < 60
    assert expires - created == 30 * 86_400
    assert (await caller.get(f"/files/{made['id']}"))["lines"] == 2
    for path in PREFIXES:
        response = await content_of(caller, made["id"], prefix=path)
        assert (response.status_code, response.content) == (200, CONTENT)
        assert response.headers["content-length"] == str(len(CONTENT))


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_deleted_one_is_gone_with_its_bytes(gate: Gate, caller: Caller, prefix: str) -> None:
    made = await upload(caller)
    path = f"{prefix}/files/{made['id']}"
    deleted = await caller.send("DELETE", path)
    assert deleted.status_code == 200
    if prefix:
        assert deleted.json() == {"id": made["id"], "object": "file", "deleted": True}
    for method, gone in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
        refusal(await caller.send(method, gone), 404)
    assert kept(gate) == []


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_anothers_and_nobodys_are_not_there(gate: Gate, caller: Caller, prefix: str) -> None:
    theirs = await upload(await gate.caller(project="other"))
    for file_id in (theirs["id"], NO_ID, "file-abc"):
        path = f"{prefix}/files/{file_id}"
        for method, asked in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
            refusal(await caller.send(method, asked), 404)
    assert (await caller.get(f"{prefix}/files"))["data"] == []
    assert kept(gate) == [theirs["id"]]


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_lists_are_paged_from_either_end(caller: Caller, prefix: str) -> None:
    made = [(await upload(caller, filename=f"{i}.jsonl"))["id"] for i in range(5)]
    for order, expected in (("desc", made[::-1]), ("asc", made)):
        read: list[str] = []
        more = True
        while more:
            after = {"after": read[-1]} if read else {}
            page = await caller.get(f"{prefix}/files", limit=2, order=order, **after)
            read += [one["id"] for one in page["data"]]
            assert page["last_id"] == read[-1]
            more = page["has_more"]
        assert read == expected
    past = await caller.get(f"{prefix}/files", after=made[0])
    assert (past["data"], past["has_more"], past["last_id"]) == ([], False, None)


async def test_a_list_may_be_of_one_purpose(caller: Caller) -> None:
    made = await upload(caller)
    for prefix in PREFIXES:
        assert [one["id"] for one in (await caller.get(f"{prefix}/files", purpose="batch"))["data"]] == [made["id"]]
        assert (await caller.get(f"{prefix}/files", purpose="batch_output"))["data"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [({"limit": 0}, "limit"), ({"limit": 1001}, "limit"), ({"after": "file-1"}, "after"), ({"order": "up"}, "order"),
     ({"purpose": "fine-tune"}, "purpose"), ({"state": "x"}, "state")],
)  # fmt: skip
async def test_a_wrong_query_is_named(sqlite_gate: Gate, query: dict[str, Any], field: str) -> None:
    caller = await sqlite_gate.caller()
    assert refusal(await caller.send("GET", "/files", params=query), 400)["field"] == field
    if field in ("after", "order"):
        for prefix in ("/v1", V4):
            assert field in refusal(await caller.send("GET", f"{prefix}/files", params=query), 400)["message"]


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=5-", 206, CONTENT[5:]),
        ("bytes=5-9", 206, CONTENT[5:10]),
        ("bytes=5-9999", 206, CONTENT[5:]),
        ("bytes=-4", 206, CONTENT[-4:]),
        ("bytes=-9999", 206, CONTENT),
        ("bytes=9-5", 200, CONTENT),
        ("bytes=0-1,4-5", 200, CONTENT),
        ("lines=1-2", 200, CONTENT),
        ("bytes=-", 200, CONTENT),
        ("bytes=9999-", 416, b""),
        ("bytes=-0", 416, b""),
    ],
)
async def test_a_download_goes_on_where_it_broke_off(sqlite_gate: Gate, asked: str, status: int, part: bytes) -> None:
    caller = await sqlite_gate.caller()
    made = await upload(caller)
    response = await content_of(caller, made["id"], prefix="", Range=asked)
    assert (response.status_code, response.content) == (status, part)
    assert response.headers["content-length"] == str(len(part))
    if status == 206:
        start = CONTENT.index(part)
        assert response.headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/{len(CONTENT)}"


async def test_a_range_is_of_the_file_that_was_begun(sqlite_gate: Gate) -> None:
    caller = await sqlite_gate.caller()
    made = await upload(caller)
    etag = (await content_of(caller, made["id"])).headers["etag"]
    for given, status in ((etag, 206), ('"another"', 200)):
        response = await content_of(caller, made["id"], **{"Range": "bytes=5-", "If-Range": given})
        assert response.status_code == status


async def test_a_name_is_told_to_who_downloads_it_and_content_is_not_guessed(sqlite_gate: Gate) -> None:
    caller = await sqlite_gate.caller()
    made = await upload(caller, b"<script>", filename="提 示;.html")
    headers = (await content_of(caller, made["id"])).headers
    assert headers["content-disposition"] == "attachment; filename*=UTF-8''%E6%8F%90%20%E7%A4%BA%3B.html"
    assert (headers["content-type"], headers["x-content-type-options"]) == ("application/octet-stream", "nosniff")


async def test_a_file_that_a_batch_is_read_from_stays(gate: Gate, caller: Caller) -> None:
    made, key = await upload(caller), await gate.stored_key()
    async with gate.database.write() as connection:
        batch_id = await read_from(connection, key, UUID(made["id"]))
    refused = refusal(await caller.send("DELETE", f"/files/{made['id']}"), 409)
    assert (refused["type"], refused["batch_id"]) == ("in_use", str(batch_id))
    for prefix in ("/v1", V4):
        assert str(batch_id) in refusal(await caller.send("DELETE", f"{prefix}/files/{made['id']}"), 400)["message"]
    assert (await content_of(caller, made["id"])).content == CONTENT


@pytest.mark.parametrize("state", [BatchState.IN_PROGRESS, BatchState.CANCELLING, BatchState.COMPLETED])
async def test_a_file_that_was_read_may_go(gate: Gate, caller: Caller, state: BatchState) -> None:
    made, key = await upload(caller), await gate.stored_key()
    async with gate.database.write() as connection:
        await read_from(connection, key, UUID(made["id"]), state=state)
    assert (await caller.send("DELETE", f"/files/{made['id']}")).status_code == 200


async def test_a_gateway_that_does_not_share_the_folder_says_so(gate: Gate, caller: Caller) -> None:
    made = await upload(caller)
    await gate.services.files.delete(UUID(made["id"]))
    for prefix in PREFIXES:
        response = await content_of(caller, made["id"], prefix=prefix)
        assert "TOLLGATE_FILES" in refusal(response, 503)["message"]


async def test_without_a_limit_in_days_it_stays(gate_with: OpenGate) -> None:
    async with gate_with(file_days=0) as gate:
        made = await upload(await gate.caller(), prefix="")
        assert made["expires_at"] is None


@pytest.mark.parametrize(("days", "seconds"), [(30, 7200), (0, 7200), (1, 7200), (1, 86_400)])
async def test_an_earlier_expiry_may_be_asked_for(gate_with: OpenGate, days: int, seconds: int) -> None:
    async with gate_with(file_days=days) as gate:
        caller = await gate.caller()
        asked: dict[str, Any] = {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(2 * seconds)}
        made = await upload(caller, **asked)
        lives = min(timedelta(seconds=2 * seconds), timedelta(days=days or 99))
        assert made["expires_at"] - made["created_at"] == lives.total_seconds()
