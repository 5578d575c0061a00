"""An upstream whose streams tell the time: each chunk's text is the moment at which it was sent.

python -m benchmarks.stamping GAP CHUNKS        seconds between two chunks, chunks a stream; prints its address
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = (
    '{"id":"stamps","object":"chat.completion.chunk","created":1760000000,"model":"glm-4-air","choices":[{"index":0,'
    '"delta":{"role":"assistant","content":"%s"},"finish_reason":%s}]%s}'
)
USAGE = ',"usage":{"prompt_tokens":28,"completion_tokens":36,"total_tokens":64}'


async def _stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, gap_s: float, chunks: int) -> None:
    """One call after the other of a connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
            writer.write(HEAD)
            for _ in range(chunks):
                _write(writer, CHUNK % (f"{time.time():.6f} ", "null", ""))
                await asyncio.sleep(gap_s)
            _write(writer, CHUNK % ("", '"stop"', USAGE))
            _write(writer, "[DONE]")
            writer.write(b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def _write(writer: asyncio.StreamWriter, data: str) -> None:
    event = f"data: {data}\n\n".encode()
    writer.write(b"%x\r\n%s\r\n" % (len(event), event))


async def _serve(gap_s: float, chunks: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _stream(reader, writer, gap_s=gap_s, chunks=chunks)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    print("the stamping upstream serves on http://{}:{}".format(*server.sockets[0].getsockname()[:2]), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(float(sys.argv[1]), int(sys.argv[2])))
