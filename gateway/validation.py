"""From what pydantic finds wrong to an InvalidRequestError: the field, what is allowed there, ZhipuAI's code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic

from tollgate.domain.errors import InvalidRequestError

MISSING = "1213"
INVALID = "1214"
Schema = TypeVar("Schema", bound=pydantic.BaseModel)


def check(body: Mapping[str, Any], schema: type[Schema], *, at: str = "") -> Schema:
    """`body` as `schema`. Raises InvalidRequestError; `at` is put before its field ("tasks.3.")."""
    try:
        return schema.model_validate(body)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise _explained(problem, schema, at) from None


def explain_query(problem: Mapping[str, Any]) -> InvalidRequestError:
    """Of a query parameter, as FastAPI tells it: ("query", name)."""
    name, message = str(problem["loc"][-1]), problem["msg"]
    if problem["type"] == "extra_forbidden":
        return InvalidRequestError(f"{name}: there is no such parameter here", field=name, code="1210")
    if problem["type"] == "uuid_parsing":
        return InvalidRequestError(
            f"{name}: {problem['input']!r} is no id", field=name, allowed="an id, as lists show it"
        )
    return InvalidRequestError(f"{name}: {message}", field=name, allowed=_rule(message))


def _explained(problem: Mapping[str, Any], schema: type[pydantic.BaseModel], at: str) -> InvalidRequestError:
    # A check of the whole body names its field itself.
    named = problem.get("ctx", {}).get("field")
    path = named.split(".") if named else [str(part) for part in problem["loc"] if not _is_branch(part)]
    known = schema.model_fields.get(path[0]) if path else None
    allowed = known.description if known else None
    return InvalidRequestError(
        f"{at}{'.'.join(path) or 'body'}: {_told(problem, allowed)}",
        field=f"{at}{'.'.join(path)}",
        allowed=allowed,
        # Null means not given.
        code=MISSING if problem["type"] == "missing" or problem["input"] is None else INVALID,
    )


def _told(problem: Mapping[str, Any], allowed: str | None) -> str:
    if problem["type"] == "string_pattern_mismatch" and allowed:
        return "this text is not allowed here"  # `allowed` says it in words, pydantic as a regular expression
    return str(problem["msg"]).removeprefix("Value error, ")


def _is_branch(part: str | int) -> bool:
    """pydantic names the branch of a union in the path: `stop.list[str].0`."""
    return isinstance(part, str) and ("[" in part or part in ("str", "float", "int", "bool", "constrained-str"))


def _rule(message: str) -> str | None:
    """ "Input should be less than or equal to 300" -> what is allowed."""
    told = "Input should be "
    return message.removeprefix(told).partition(", unable")[0] if message.startswith(told) else None
