"""What a batch says for its lines."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import validation
from gateway.batch_body import LineDefaultsBody
from tollgate.domain.errors import InvalidRequestError


def said(**given: Any) -> dict[str, Any]:
    return validation.check(given, LineDefaultsBody).defaults()


def test_what_is_said_is_kept_and_null_is_not_said() -> None:
    parameters = {"temperature": 1.5, "max_tokens": 5, "top_p": None}
    defaults = said(endpoint="/v1/chat/completions", model="glm-4.7", system="be short", parameters=parameters)
    assert defaults == {
        "model": "glm-4.7",
        "system": "be short",
        "parameters": {"temperature": 1.5, "max_tokens": 5},
    }
    assert said(parameters={"top_p": None}) == {}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"model": ""}, "model"),
        ({"label": "a\nb"}, "label"),
        ({"system": ""}, "system"),
        ({"parameters": []}, "parameters"),
        ({"parameters": {"temperature": 1.5}}, "parameters.temperature"),
        ({"endpoint": "/v1/chat/completions", "parameters": {"temperature": 2.5}}, "parameters.temperature"),
        ({"endpoint": "/v4/embeddings", "parameters": {"dimensions": 0}}, "parameters.dimensions"),
        *(
            ({"parameters": {name: "x"}}, f"parameters.{name}")
            for name in ("model", "messages", "prompt", "input", "stream", "custom_id", "label", "callback_url")
        ),
        ({"temperature": 0.5}, "temperature"),
    ],
)
def test_what_no_line_could_have_is_refused_with_the_batch(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        said(**given)
    assert caught.value.field == field
