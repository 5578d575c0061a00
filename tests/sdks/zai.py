"""zai-sdk, unmodified, in an environment of its own: does what it is told on stdin, and prints what it got."""

import json
import sys
import time
from pathlib import Path

import zai
from zai import ZhipuAiClient

asked = json.load(sys.stdin)
client = ZhipuAiClient(api_key=asked["key"], base_url=asked["url"], max_retries=0, disable_token_cache=asked["by_key"])
call, arguments = asked["call"], asked["arguments"]
try:
    if call == "stream":
        told = [chunk.model_dump() for chunk in client.chat.completions.create(stream=True, **arguments)]
    elif call == "async":
        calls = client.chat.asyncCompletions
        made = calls.create(**arguments)
        result = calls.retrieve_completion_result(made.id)
        while result.task_status == "PROCESSING":
            time.sleep(0.05)
            result = calls.retrieve_completion_result(made.id)
        told = result.model_dump()
    elif call == "files":
        with Path(arguments["path"]).open("rb") as file:
            made = client.files.create(file=file, purpose="batch")
        listed = client.files.list(purpose="batch", limit=1)
        content = client.files.content(made.id).content.decode()
        deleted = client.files.delete(made.id)
        told = {
            "made": made.model_dump(),
            "listed": [one.id for one in listed.data],
            "content": content,
            "deleted": deleted.model_dump(),
            "after": [one.id for one in client.files.list(after=made.id).data],
        }
    elif call == "batches":
        with Path(arguments["path"]).open("rb") as file:
            made = client.files.create(file=file, purpose="batch")
        batch = client.batches.create(
            input_file_id=made.id, endpoint=arguments["endpoint"], completion_window="24h", auto_delete_input_file=False
        )
        while batch.status in ("validating", "in_progress"):
            time.sleep(0.05)
            batch = client.batches.retrieve(batch.id)
        told = {
            "ended": batch.model_dump(),
            "listed": [one.id for one in client.batches.list(limit=5).data],
            "output": client.files.content(batch.output_file_id).content.decode(),
            "errors": client.files.content(batch.error_file_id).content.decode(),
        }
    elif call == "embeddings":
        told = client.embeddings.create(**arguments).model_dump()
    else:
        told = client.chat.completions.create(**arguments).model_dump()
except zai.core.APIStatusError as error:
    told = {"raised": type(error).__name__, "status": error.status_code}
json.dump(told, sys.stdout)
