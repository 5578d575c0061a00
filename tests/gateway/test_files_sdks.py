"""The files of the SDKs, unmodified, against a served gateway."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import zhipuai

from tests import sdks
from tests.gateway.conftest import OpenGate
from tests.gateway.gate import V4, until
from tests.gateway.test_files import CONTENT, kept
from tests.gateway.test_sdk import Served, serve

NAME = "提示.jsonl"


@pytest.fixture
async def served(gate_with: OpenGate) -> AsyncIterator[Served]:
    async with gate_with() as gate, serve(gate) as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.write_bytes(CONTENT)
    return path


def openai_of(served: Served, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(**{"api_key": served.key, "base_url": f"{served.url}/v1", "max_retries": 0, **options})


async def test_openai(served: Served, path: Path) -> None:
    def drive() -> None:
        files = openai_of(served).files
        made = files.create(file=path, purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200})
        assert (made.object, made.bytes, made.filename, made.purpose) == ("file", len(CONTENT), NAME, "batch")
        assert made.status == "processed"
        assert made.expires_at == made.created_at + 7200
        assert files.retrieve(made.id) == made
        assert files.wait_for_processing(made.id, poll_interval=0.01) == made
        others = [files.create(file=(f"{i}.jsonl", CONTENT), purpose="batch") for i in range(2)]
        everything = [one.id for one in files.list(limit=1)]
        assert everything == [*(one.id for one in others[::-1]), made.id], "over three pages"
        assert [one.id for one in files.list(order="asc", purpose="batch")] == everything[::-1]
        assert files.content(made.id).read() == CONTENT
        deleted = files.delete(made.id)
        assert (deleted.id, deleted.deleted, deleted.object) == (made.id, True, "file")
        for call in (files.retrieve, files.content, files.delete):
            with pytest.raises(openai.NotFoundError):
                call(made.id)

    await asyncio.to_thread(drive)


async def test_openais_async_client(served: Served) -> None:
    async with openai.AsyncOpenAI(api_key=served.key, base_url=f"{served.url}/v1", max_retries=0) as client:
        made = await client.files.create(file=("in.jsonl", CONTENT), purpose="batch")
        assert (await client.files.content(made.id)).content == CONTENT


async def test_zhipuai(served: Served, path: Path) -> None:
    def drive() -> None:
        files = served.sdk().files
        with path.open("rb") as file:
            made: Any = files.create(file=file, purpose="batch")
        assert (made.object, made.bytes, made.filename, made.status) == ("file", len(CONTENT), NAME, "processed")
        assert [one.id for one in files.list(purpose="batch", limit=1, order="desc").data] == [made.id]
        assert files.list(after=made.id).data == [], "it reads on until a page is empty"
        assert files.content(made.id).content == CONTENT
        deleted = files.delete(made.id)
        assert (deleted.id, deleted.deleted) == (made.id, True)
        with pytest.raises(zhipuai.APIStatusError) as raised:
            files.content(made.id)
        assert raised.value.status_code == 404

    await asyncio.to_thread(drive)


@pytest.mark.parametrize("by_key", [True, False])
async def test_zai(served: Served, path: Path, by_key: bool) -> None:
    asked = {"key": served.key, "url": served.url + V4, "by_key": by_key, "call": "files"}
    told = await asyncio.to_thread(sdks.drive, "zai", **asked, arguments={"path": str(path)})
    made = told["made"]
    assert (made["object"], made["bytes"], made["filename"], made["status"]) == (
        "file", len(CONTENT), NAME, "processed",
    )  # fmt: skip
    assert (told["listed"], told["after"], told["content"]) == ([made["id"]], [], CONTENT.decode())
    assert told["deleted"] | {"object": "file"} == {"id": made["id"], "object": "file", "deleted": True}


async def test_what_is_refused_raises_what_their_users_catch(gate_with: OpenGate) -> None:
    """With the SDKs' own retries on, and more to send than any buffer on the way takes."""
    big, announced = b"x" * 8_000_000, b"x" * 9_000_000
    async with gate_with(max_file_bytes=7_900_000) as gate, serve(gate) as served:
        v1, v4 = openai_of(served, max_retries=3).files, served.sdk(max_retries=3).files
        given: Any = {"file": ("in.jsonl", big), "purpose": "batch"}
        for create, changes, error, status in (
            (v1.create, {"purpose": "fine-tune"}, openai.BadRequestError, 400),
            (v4.create, {"purpose": "retrieval"}, zhipuai.APIRequestFailedError, 400),
            (v1.create, {"file": ("in.jsonl", b"")}, openai.BadRequestError, 400),
            (v1.create, {}, openai.APIStatusError, 413),
            (v4.create, {}, zhipuai.APIStatusError, 435),
            (v1.create, {"file": ("in.jsonl", announced)}, openai.APIStatusError, 413),
            (v4.create, {"file": ("in.jsonl", announced)}, zhipuai.APIStatusError, 435),
        ):
            call: Any = create
            with pytest.raises(error) as raised:
                await asyncio.to_thread(call, **{**given, **changes})
            assert raised.value.status_code == status
        assert kept(gate) == []


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(served: Served) -> None:
    """Over a real socket: it announces more than it sends."""
    host, port = served.url.removeprefix("http://").split(":")
    head = f"POST /files HTTP/1.1\r\nHost: {host}\r\nAuthorization: {served.key}\r\nContent-Length: 99999999\r\n\r\n"
    with socket.create_connection((host, int(port))) as client:
        client.sendall(head.encode() + CONTENT)
        await until(lambda: kept(served.gate))
        assert kept(served.gate)[0].endswith(".part")
    await until(lambda: not kept(served.gate))
    assert (await (await served.gate.caller()).get("/files"))["data"] == []
