"""The server for ChatGLM-6B of the first generation, with a model that answers what it is given to answer."""

from __future__ import annotations

import importlib.util
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest
import torch

SCRIPT = Path(__file__).parents[3] / "docs" / "sidecars" / "chatglm_6b.py"
END = 0
"""The token that ends an answer; every other is a byte."""


class Inputs(dict[str, torch.Tensor]):
    def to(self, _: str) -> Inputs:
        return self


class Bytes:
    """A tokenizer: each byte is a token."""

    def __call__(self, texts: list[str], return_tensors: str) -> Inputs:
        ids = torch.tensor([list(texts[0].encode())])
        return Inputs(input_ids=ids, attention_mask=torch.ones_like(ids))

    def decode(self, ids: list[int]) -> str:
        return bytes(token for token in ids if token != END).decode(errors="replace")


class Parrot:
    """A model, as the server knows one: says `answer`, or without it `prompt` over and over."""

    device = "cpu"
    config = SimpleNamespace(eos_token_id=END)

    def __init__(self) -> None:
        self.answer: bytes | None = None
        self.prompts: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.broken = False

    def prepare_inputs_for_generation(self, ids: torch.Tensor, **state: Any) -> dict[str, Any]:
        return {"ids": ids, "first": state.get("first", ids.shape[1])}

    def __call__(self, ids: torch.Tensor, first: int, return_dict: bool) -> SimpleNamespace:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        prompt, said = bytes(ids[0, :first].tolist()), ids.shape[1] - first
        if said == 0:
            self.prompts.append(prompt.decode())
        answer = prompt * 100 if self.answer is None else self.answer
        logits = torch.full((1, 1, 256), -100.0)
        logits[0, 0, answer[said] if said < len(answer) else END] = torch.nan if self.broken else 100.0
        self.at_once -= 1
        return SimpleNamespace(logits=logits, first=first)

    def _update_model_kwargs_for_generation(
        self, out: SimpleNamespace, state: dict[str, Any], is_encoder_decoder: bool
    ) -> dict[str, Any]:
        return state | {"first": out.first}


@pytest.fixture(scope="module")
def sidecar() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sidecar", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def parrot() -> Parrot:
    return Parrot()


@pytest.fixture
def client(sidecar: ModuleType, parrot: Parrot) -> Iterator[openai.OpenAI]:
    """OpenAI's SDK, on a server of the parrot."""
    chat = sidecar.Chat(parrot, Bytes(), name="chatglm-6b")
    with ThreadingHTTPServer(("127.0.0.1", 0), sidecar.handler(chat)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=30) as sdk:
            yield sdk
        server.shutdown()
        thread.join()


def ask(client: openai.OpenAI, content: str = "hi", **options: Any) -> Any:
    messages = options.pop("messages", [{"role": "user", "content": content}])
    return client.chat.completions.create(model="chatglm-6b", messages=messages, **options)


def test_usage_counts_every_token_and_the_one_that_ends_it(client: openai.OpenAI, parrot: Parrot) -> None:
    parrot.answer = "答案是 🙂".encode()
    answer = ask(client, "你好")
    assert answer.choices[0].message.content == "答案是 🙂"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == len("你好".encode())
    assert answer.usage.completion_tokens == len(parrot.answer) + 1
    assert parrot.prompts == ["你好"]


def test_a_stream_says_the_same_and_its_usage(client: openai.OpenAI, parrot: Parrot) -> None:
    parrot.answer = "答案是 🙂, yes".encode()
    events = list(ask(client, stream=True))
    pieces = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(pieces) == "答案是 🙂, yes"
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    assert events[-2].choices[0].finish_reason == "stop"
    assert events[-1].usage.completion_tokens == len(parrot.answer) + 1


def test_rounds_are_written_as_the_model_was_taught(client: openai.OpenAI, parrot: Parrot) -> None:
    parrot.answer = b"ok"
    roles = itertools.cycle(["user", "assistant"])
    talk = [{"role": role, "content": text} for role, text in zip(roles, ["a", "b", "c"], strict=False)]
    ask(client, messages=[{"role": "system", "content": "short"}, *talk])
    assert parrot.prompts == ["[Round 0]\n问：short\na\n答：b\n[Round 1]\n问：c\n答："]


def test_max_tokens_ends_it_by_length(client: openai.OpenAI, parrot: Parrot) -> None:
    answer = ask(client, "abc", max_tokens=5)
    assert answer.choices[0].message.content == "abcab"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_is_never_shown(stream: bool, client: openai.OpenAI, parrot: Parrot) -> None:
    parrot.answer = "一二停止三".encode()
    answer = ask(client, stop=["停止", "never"], stream=stream)
    if stream:
        text = "".join(event.choices[0].delta.content or "" for event in answer if event.choices)
    else:
        text = answer.choices[0].message.content
    assert text == "一二"


def test_one_answer_at_a_time(client: openai.OpenAI, parrot: Parrot) -> None:
    parrot.answer = b"x" * 50
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: ask(client, f"question {n}"), range(8)))
    assert all(answer.usage.completion_tokens == 51 for answer in answers)
    assert parrot.most_at_once == 1


def test_a_client_that_leaves_makes_room_for_the_next(client: openai.OpenAI, parrot: Parrot) -> None:
    stream = ask(client, "round and round ", stream=True)
    next(iter(stream))
    stream.close()
    parrot.answer = b"next"
    assert ask(client).choices[0].message.content == "next"


def test_seeds_repeat_an_answer(sidecar: ModuleType) -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(1))

    def sampled(seed: int) -> list[int]:
        chance = torch.Generator().manual_seed(seed)
        return [int(sidecar.chosen(logits, temperature=1.0, top_p=0.9, chance=chance)) for _ in range(20)]

    assert sampled(1) == sampled(1) != sampled(2)
    narrow = {int(sidecar.chosen(logits, temperature=1.0, top_p=0.01, chance=torch.Generator())) for _ in range(20)}
    assert narrow == {int(logits.argmax())}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"messages": []}, "a list that is not empty"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "'assistant' is not expected here"),
        ({"messages": [{"role": "system", "content": "x"}]}, "the last one is the user's"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "a content of text"),
        ({"temperature": 3}, "temperature: a number from 0 to 2"),
        ({"max_tokens": 0}, "max_tokens: a number from 1 to 2048"),
        ({"content": "x" * 2_048}, "no room for an answer in 2048 tokens"),
    ],
)
def test_a_bad_request_is_refused(options: dict[str, Any], reason: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=reason):
        ask(client, **options)


def test_a_body_that_is_no_json_is_refused(client: openai.OpenAI) -> None:
    answer = httpx2.post(f"{client.base_url}chat/completions", content=b"{")
    assert answer.status_code == 400
    assert httpx2.get(f"{client.base_url}nothing").status_code == 404


def test_the_models_fault_is_a_server_error_and_ends_a_stream(client: openai.OpenAI, parrot: Parrot) -> None:
    parrot.broken = True
    with pytest.raises(openai.InternalServerError, match="the model failed"):
        ask(client)
    with pytest.raises(openai.APIError, match="the model failed"):
        list(ask(client, stream=True))
    parrot.broken = False
    assert ask(client, max_tokens=2).choices[0].message.content == "hi"


def test_its_name_is_among_the_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["chatglm-6b"]


def test_code_is_not_run_unless_that_is_said(
    sidecar: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["chatglm_6b.py", "/models/chatglm-6b"])
    with pytest.raises(SystemExit) as ended:
        sidecar.main()
    assert ended.value.code == 2
    assert "add --trust-remote-code" in capsys.readouterr().err
