"""What is refused of an upload and how, that nothing of it stays, and that memory does not grow with it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tracemalloc
import zipfile
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import httpx2
import pytest

from gateway.files import uploads
from gateway.files.contents import checked
from gateway.files.form import MAX_FIELD_BYTES, MAX_FIELDS, Form
from gateway.files.names import MAX_CHARACTERS, UNNAMED, cleaned
from tests.gateway.conftest import OpenGate
from tests.gateway.gate import V4, Caller, Gate, refusal
from tests.gateway.test_files import CONTENT, PREFIXES, content_of, kept, send_form
from tollgate.domain.ids import new_id

BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
PURPOSE = ('name="purpose"', b"batch")
FILE = ('name="file"; filename="in.jsonl"', CONTENT)


def form_of(*parts: tuple[str, bytes], end: bytes = b"--\r\n", extra: str = "") -> bytes:
    """The body of a form, by hand: each part's Content-Disposition and content."""
    delimiter = b"--" + BOUNDARY.encode()
    written = [
        delimiter + f"\r\nContent-Disposition: form-data; {head}\r\n{extra}\r\n".encode() + content + b"\r\n"
        for head, content in parts
    ]
    return b"".join(written) + delimiter + end


async def send(caller: Caller, path: str, body: Any, **headers: str) -> httpx2.Response:
    given = {"Authorization": f"Bearer {caller.key}", "Content-Type": FORM, **headers}
    return await caller.http.post(path, content=body, headers=given)


async def in_pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


class TestForms:
    @pytest.mark.parametrize("parts", [[PURPOSE, FILE], [FILE, PURPOSE]], ids=["purpose first", "file first"])
    @pytest.mark.parametrize("prefix", PREFIXES)
    async def test_fields_stand_in_either_order(self, gate: Gate, caller: Caller, prefix: str, parts: Any) -> None:
        response = await send(caller, f"{prefix}/files", form_of(*parts))
        assert response.is_success, response.text
        assert (await content_of(caller, response.json()["id"])).content == CONTENT

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 41])
    @pytest.mark.parametrize(
        "content", [CONTENT, b"\r\n--b0undary", b"\r\n--b0undar\r\n--b0und\r\r\n", b"\n"], ids=repr
    )
    async def test_wherever_it_is_cut_it_is_read_alike(self, size: int, content: bytes) -> None:
        inside = content.replace(b"b0undary", b"b0undarz")
        body = form_of((FILE[0], inside), PURPOSE, ('name="more"', b"x" * 50))
        form = Form(FORM, in_pieces(body, size))
        assert b"".join([chunk async for chunk in form.file()]) == inside
        assert form.fields == {"purpose": "batch", "more": "x" * 50}
        assert form.filename == "in.jsonl"

    async def test_native_means_a_batch_where_nothing_is_said(self, sqlite_gate: Gate) -> None:
        caller = await sqlite_gate.caller()
        assert (await send(caller, "/files", form_of(FILE))).json()["purpose"] == "batch"
        for prefix in ("/v1", V4):
            assert "purpose" in refusal(await send(caller, f"{prefix}/files", form_of(FILE)), 400)["message"]

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            (form_of(PURPOSE), "file"),
            (form_of(), "file"),
            (b"", "body"),
            (b'{"purpose": "batch"}', "body"),
            (form_of(PURPOSE, FILE)[:-8], "body"),
            (form_of(PURPOSE, FILE)[:60], "body"),
            (form_of(PURPOSE, FILE, FILE), "file"),
            (form_of(PURPOSE, (FILE[0], b"")), "file"),
            (form_of((FILE[0], b""), PURPOSE), "file"),
            (form_of(('name="purpose"', b"fine-tune"), FILE), "purpose"),
            (form_of(FILE, ('name="purpose"', b"fine-tune")), "purpose"),
            (form_of(FILE, ('name="purpose"', b"\xff")), "purpose"),
            (form_of(PURPOSE, ('name="x"', b"x" * (MAX_FIELD_BYTES + 1)), FILE), "x"),
            (form_of(*[('name="x"', b"")] * MAX_FIELDS, FILE), "body"),
            (form_of(PURPOSE, FILE, extra="Content-Transfer-Encoding: base64\r\n"), "file"),
            (form_of(PURPOSE, FILE, extra="X: " + "x" * 9_999 + "\r\n"), "body"),
            (form_of(PURPOSE, FILE, ('name="expires_after[anchor]"', b"now")), "expires_after[anchor]"),
            (form_of(PURPOSE, FILE, ('name="expires_after[anchor]"', b"created_at")), "expires_after[seconds]"),
            (form_of(PURPOSE, FILE, ('name="expires_after[seconds]"', b"3599")), "expires_after[seconds]"),
            (form_of(PURPOSE, FILE, ('name="expires_after[seconds]"', b"9" * 99)), "expires_after[seconds]"),
            (form_of(PURPOSE, FILE, ('name="expires_after[seconds]"', b"-3600")), "expires_after[seconds]"),
        ],
    )
    async def test_what_is_no_upload_is_named_and_leaves_nothing(
        self, sqlite_gate: Gate, body: bytes, field: str
    ) -> None:
        caller = await sqlite_gate.caller()
        assert refusal(await send(caller, "/files", body), 400)["field"] == field
        assert refusal(await send(caller, "/v1/files", body), 400)["param"] == field
        refusal(await send(caller, f"{V4}/files", body), 400)
        assert kept(sqlite_gate) == []
        assert (await caller.get("/files"))["data"] == []

    @pytest.mark.parametrize(
        "content_type", ["", "application/json", "multipart/form-data", f"{FORM[:30]}{'x' * 300}"], ids=repr
    )
    async def test_sdks_wires_take_forms_only(self, sqlite_gate: Gate, content_type: str) -> None:
        caller = await sqlite_gate.caller()
        for prefix in ("/v1", V4):
            response = await send(caller, f"{prefix}/files", form_of(PURPOSE, FILE), **{"Content-Type": content_type})
            assert "form" in refusal(response, 400)["message"]

    async def test_a_wrong_purpose_is_told_before_the_file_has_come(self, gate: Gate, caller: Caller) -> None:
        body = form_of(('name="purpose"', b"vision"), FILE)
        form = Form(FORM, in_pieces(body[: body.index(CONTENT) + 3], 10))
        await form.find_file()
        assert form.fields == {"purpose": "vision"}, "without the rest of the body"


def zipped() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("in.jsonl", CONTENT)
    return written.getvalue()


def as_form(caller: Caller, content: bytes) -> Any:
    return send_form(caller, content, prefix="")


def as_it_is(caller: Caller, content: bytes) -> Any:
    return caller.send("POST", "/files", content=content)


class TestContents:
    @pytest.mark.parametrize("ways", [as_form, as_it_is])
    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"", "empty"),
            (gzip.compress(CONTENT, mtime=0), "gzip"),
            (bz2.compress(CONTENT), "bzip2"),
            (lzma.compress(CONTENT), "xz"),
            (zipped(), "zip"),
            (b"\x28\xb5\x2f\xfd\x04\x00", "zstd"),
            (CONTENT.decode().encode("utf-16"), "UTF-16"),
            (CONTENT.decode().encode("utf-16-be"), "UTF-16"),
            (CONTENT.decode().encode("utf-32"), "UTF-16"),
        ],
    )
    async def test_what_is_no_text_is_refused(
        self, sqlite_gate: Gate, ways: Callable[[Caller, bytes], Any], content: bytes, told: str
    ) -> None:
        caller = await sqlite_gate.caller()
        refused = refusal(await ways(caller, content), 400)
        assert (refused["field"], told in refused["message"]) == ("file", True), refused
        assert kept(sqlite_gate) == []

    @pytest.mark.parametrize("content", [b"\xef\xbb\xbf{}", "提示".encode(), b"BZhong", b"PK", b"\xff\xfd", b" "])
    async def test_what_may_be_text_is_kept(self, sqlite_gate: Gate, content: bytes) -> None:
        caller = await sqlite_gate.caller()
        made = (await as_it_is(caller, content)).json()
        assert (await content_of(caller, made["id"])).content == content

    async def test_first_bytes_are_seen_however_they_come(self, sqlite_gate: Gate) -> None:
        caller = await sqlite_gate.caller()
        response = await send(caller, "/files", in_pieces(bz2.compress(CONTENT), 1), **{"Content-Type": "text/plain"})
        assert "bzip2" in refusal(response, 400)["message"]

    async def test_a_compressed_body_is_refused(self, sqlite_gate: Gate) -> None:
        caller = await sqlite_gate.caller()
        for prefix in PREFIXES:
            response = await send(caller, f"{prefix}/files", form_of(PURPOSE, FILE), **{"Content-Encoding": "gzip"})
            assert "uncompressed" in refusal(response, 400)["message"]
        accepted = await send(caller, "/files", form_of(PURPOSE, FILE), **{"Content-Encoding": "identity"})
        assert accepted.status_code == 201


class TestSizes:
    @pytest.mark.parametrize("announced", [True, False])
    @pytest.mark.parametrize(("prefix", "status"), [("", 413), ("/v1", 413), (V4, 435)])
    async def test_a_file_over_the_limit_is_refused(
        self, gate_with: OpenGate, prefix: str, status: int, announced: bool
    ) -> None:
        async with gate_with(max_file_bytes=len(CONTENT) - 1) as gate:
            caller = await gate.caller()
            body = form_of(PURPOSE, FILE)
            response = await send(caller, f"{prefix}/files", body if announced else in_pieces(body, 9))
            assert "TOLLGATE_MAX_FILE_BYTES" in refusal(response, status)["message"]
            assert kept(gate) == []
        async with gate_with(max_file_bytes=len(CONTENT)) as gate:
            assert (await send(await gate.caller(), f"{prefix}/files", body)).is_success

    async def test_an_announced_size_is_refused_before_a_byte_is_read(
        self, gate_with: OpenGate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And with it whatever a form has beside its file. Patched: the body would be long."""
        monkeypatch.setattr(uploads, "FORM_BYTES", 1000)

        async def unread() -> AsyncIterator[bytes]:
            raise AssertionError("nobody reads it")
            yield b""

        async with gate_with(max_file_bytes=1000) as gate:
            caller = await gate.caller()
            for path, size in (("/files", 1001), ("/v1/files", 2001)):
                headers = {"Content-Length": str(size)} | ({"Content-Type": "text/plain"} if path == "/files" else {})
                refusal(await send(caller, path, unread(), **headers), 413)
            body = form_of(PURPOSE, FILE) + b"an epilogue" * 200
            refusal(await send(caller, "/v1/files", in_pieces(body, 100)), 413)

    async def test_memory_does_not_grow_with_the_file(self) -> None:
        """200 MiB pass through the form's parser and the checks: what stays of it is a chunk."""
        line = b'{"custom_id": "x", "body": {}}\r\n'
        chunk = line * (65_536 // len(line))
        count = 200 * 1024 * 1024 // len(chunk)

        async def body() -> AsyncIterator[bytes]:
            yield form_of(PURPOSE, (FILE[0], b""), end=b"")[: -len(BOUNDARY) - 4]
            for _ in range(count):
                yield chunk
            yield f"\r\n--{BOUNDARY}--\r\n".encode()

        form = Form(FORM, body())
        tracemalloc.start()
        try:
            size = 0
            async for piece in checked(form.file(), max_bytes=2**40):
                size += len(piece)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert size == count * len(chunk)
        assert peak < 2 * 1024 * 1024

    async def test_a_file_is_written_in_flat_memory(self, gate: Gate) -> None:
        """The folder's part of the same, on the disk."""
        chunk = b"x" * 65_536

        async def content() -> AsyncIterator[bytes]:
            for _ in range(512):
                yield chunk

        file_id = new_id()
        tracemalloc.start()
        try:
            written = await gate.services.files.write(file_id, content())
            read = [len(piece) async for piece in gate.services.files.open_at(file_id)]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert written.bytes == sum(read) == 512 * 65_536
        assert peak < 8 * 1024 * 1024


class TestBreaks:
    async def test_a_full_disk_is_told_in_each_dialect_and_not_tried_again(
        self, gate: Gate, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Patched: no test may fill a real disk."""

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        for prefix in PREFIXES:
            response = await send_form(caller, CONTENT, prefix=prefix)
            assert "No space left" in refusal(response, 507)["message"]
            assert prefix == "" or response.headers["x-should-retry"] == "false"
        monkeypatch.undo()
        assert kept(gate) == []

    async def test_a_folder_that_is_away_is_told_as_what_passes(self, gate: Gate, caller: Caller) -> None:
        folder = gate.services.settings.files_folder
        folder.write_text("a file, where the folder should be")
        for prefix in PREFIXES:
            response = await send_form(caller, CONTENT, prefix=prefix)
            refusal(response, 503)
            assert response.headers["Retry-After"] == "2"

    async def test_without_its_row_a_file_is_not_there(
        self, gate: Gate, caller: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its gateway breaks between the bytes and the row. Patched: the moment is short."""

        async def broken(*_: Any) -> None:
            raise ConnectionError("killed")

        monkeypatch.setattr("tollgate.store.files.add", broken)
        refusal(await send_form(caller, CONTENT), 503)
        (left,) = kept(gate)
        assert (await caller.get("/files"))["data"] == []
        refusal(await caller.send("GET", f"/files/{left}/content"), 404)
        assert await gate.services.files.exists(UUID(left)), "for the tidier"


@pytest.mark.parametrize(
    ("given", "kept_as"),
    [
        ("提示 1.jsonl", "提示 1.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\in.jsonl", "in.jsonl"),
        ("/", UNNAMED),
        ("..", UNNAMED),
        ("", UNNAMED),
        (None, UNNAMED),
        ("a\x00b\r\n\u2028\x7f\x9fc.jsonl", "abc.jsonl"),
        ("\ud800x", "x"),
        (" in.jsonl ", "in.jsonl"),
        ("示" * 300 + ".jsonl", "示" * (MAX_CHARACTERS - 6) + ".jsonl"),
        ("x" * 300, "x" * MAX_CHARACTERS),
        ("👩‍🔬.jsonl", "👩‍🔬.jsonl"),
    ],
)
def test_a_name_is_data(given: str | None, kept_as: str) -> None:
    assert cleaned(given) == kept_as


async def test_a_name_comes_as_it_was_sent(sqlite_gate: Gate) -> None:
    caller = await sqlite_gate.caller()
    for prefix in PREFIXES:
        made = (await send_form(caller, CONTENT, prefix=prefix, filename="../提示.jsonl")).json()
        assert made["filename"] == "提示.jsonl"
    made = (await caller.send("POST", "/files", content=CONTENT, params={"filename": "a\x00/提示"})).json()
    assert made["filename"] == "提示"
    assert refusal(await caller.send("POST", "/files", content=CONTENT, params={"name": "x"}), 400)["field"] == "name"
