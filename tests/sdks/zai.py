"""zai-sdk, unmodified, in an environment of its own: does what it is told on stdin, and prints what it got."""

import json
import sys
import time

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
    elif call == "embeddings":
        told = client.embeddings.create(**arguments).model_dump()
    else:
        told = client.chat.completions.create(**arguments).model_dump()
except zai.core.APIStatusError as error:
    told = {"raised": type(error).__name__, "status": error.status_code}
json.dump(told, sys.stdout)
