"""ZhipuAI's own SDK on a simulator's files and batches, for tests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson
from zhipuai import ZhipuAI

from tests.simulator.client import Client, Start
from tollgate.simulator.batch_settings import Batches

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


def line(prompt: str, *, custom_id: str, url: str = "/v4/chat/completions", **fields: Any) -> dict[str, Any]:
    body = {"model": "glm-4.7", "messages": [{"role": "user", "content": prompt}], **fields}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def jsonl(*lines: dict[str, Any]) -> bytes:
    return b"".join(orjson.dumps(one) + b"\n" for one in lines)


def prompts(count: int, *, text: str = "prompt") -> bytes:
    return jsonl(*(line(f"{text} {number}", custom_id=f"request-{number}") for number in range(count)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """The SDK's calls, each in a thread: the SDK blocks, and the simulator runs on the test's loop."""

    client: Client
    sdk: ZhipuAI

    @staticmethod
    async def begin(start: Start, *, settings: dict[str, Any] | None = None, **behaviour: Any) -> Batching:
        client = await start(batches=Batches(**behaviour), **(settings or {}))
        sdk = ZhipuAI(api_key="tester.secret", base_url=client.simulator.base_url, max_retries=0)
        return Batching(client=client, sdk=sdk)

    async def upload(self, content: bytes, *, purpose: str = "batch") -> Any:
        return await asyncio.to_thread(self.sdk.files.create, file=("prompts.jsonl", content), purpose=purpose)

    async def create(self, content: bytes, *, endpoint: str = "/v4/chat/completions", **fields: Any) -> Any:
        file = await self.upload(content)
        return await asyncio.to_thread(
            self.sdk.batches.create,
            endpoint=endpoint,
            input_file_id=file.id,
            **fields,
        )

    async def get(self, batch_id: str) -> Any:
        return await asyncio.to_thread(self.sdk.batches.retrieve, batch_id)

    async def reach(self, batch_id: str, *states: str) -> Any:
        """The batch once it is in one of `states`; ended, if none is named."""
        async with asyncio.timeout(20):
            while (batch := await self.get(batch_id)).status not in (states or ENDED):  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.01)
        return batch

    async def run(self, content: bytes, **fields: Any) -> Any:
        """The ended batch."""
        return await self.reach((await self.create(content, **fields)).id)

    async def read(self, file_id: str | None) -> list[bytes]:
        """The lines of a file; none where there is no file."""
        if not file_id:
            return []
        content = await asyncio.to_thread(self.sdk.files.content, file_id)
        return bytes(content.content).splitlines()

    async def parsed(self, file_id: str | None) -> dict[str, Any]:
        """The file's lines by custom_id."""
        return {line["custom_id"]: line for line in map(orjson.loads, await self.read(file_id))}
