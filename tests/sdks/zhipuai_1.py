"""zhipuai 1.x, unmodified, in an environment of its own: does what it is told on stdin, and prints what it got."""

import json
import sys

import zhipuai

asked = json.load(sys.stdin)
zhipuai.api_key = asked["key"]
zhipuai.model_api_url = asked["url"]
call, arguments = asked["call"], asked["arguments"]
if call == "sse_invoke":
    events = zhipuai.model_api.sse_invoke(**arguments).events()
    told = [{"event": e.event, "id": e.id, "data": e.data, "meta": e.meta} for e in events]
elif call == "query":
    told = zhipuai.model_api.query_async_invoke_result(arguments["task_id"])
else:
    told = getattr(zhipuai.model_api, call)(**arguments)
json.dump(told, sys.stdout)
