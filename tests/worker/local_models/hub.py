"""A stand-in for the Hugging Face hub: one model, as much of the API as its client asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "a" * 40


@contextmanager
def serve(folder: Path, *, name: str) -> Iterator[str]:
    """The address of a hub on which `folder` is the model `name`, for HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(folder, name=name))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(folder: Path, *, name: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == f"/api/models/{name}/revision/main":
                self._answer(_json({"id": name, "sha": COMMIT, "siblings": []}))
            elif path == f"/api/models/{name}/tree/{COMMIT}":
                self._answer(_json([_entry(file) for file in folder.iterdir()]))
            elif path.startswith(f"/{name}/resolve/{COMMIT}/"):
                self._answer((folder / path.rpartition("/")[2]).read_bytes())
            else:
                self._answer(b"", status=404)

        do_HEAD = do_GET  # noqa: N815  # http.server's name

        def _answer(self, body: bytes, *, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: the tests' output is for the tests."""

    return Handler


def _entry(file: Path) -> dict[str, object]:
    return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "b" * 40}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
