"""ChatGLM-6B of the first generation behind OpenAI's wire, for a gateway that calls it as an upstream.

It runs the checkpoint's own code, in an environment of its own, one answer at a time; the next ones wait. Commands and
requirements: ../chatglm.md. Beside the standard library it needs torch and transformers 4.33, and no Tollgate.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONTEXT_TOKENS = 2_048
"""Prompt and answer together: what it was trained on."""
BODY_BYTES = 4_000_000
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a character looks like of which some bytes are still to come."""


class BadRequestError(Exception):
    """The body cannot be served as it stands."""


class Chat:
    """The model, asked for one token at a time."""

    def __init__(self, model: Any, tokenizer: Any, *, name: str) -> None:
        self.name = name
        self.turn = threading.Lock()
        self._model = model
        self._tokenizer = tokenizer

    def prompt(self, messages: list[dict[str, str]]) -> Any:
        """The model's inputs, in the words of its own `chat`. Raises BadRequestError."""
        text = prompt_text(messages)
        inputs = self._tokenizer([text], return_tensors="pt").to(self._model.device)
        if inputs["input_ids"].shape[1] >= CONTEXT_TOKENS:
            raise BadRequestError(f"the prompt leaves no room for an answer in {CONTEXT_TOKENS} tokens")
        return inputs

    def tokens(self, inputs: Any, *, temperature: float, top_p: float, seed: int | None) -> Iterator[int]:
        """Tokens without end. (The checkpoint's `stream_generate` keeps the last one, so they could not be counted.)"""
        import torch

        chance = torch.Generator(device=self._model.device)
        if seed is None:
            chance.seed()
        else:
            chance.manual_seed(seed)
        ids, state = inputs["input_ids"], {name: inputs[name] for name in inputs if name != "input_ids"}
        state["use_cache"] = True
        while True:
            with torch.inference_mode():
                step = self._model.prepare_inputs_for_generation(ids, **state)
                out = self._model(**step, return_dict=True)
                token = chosen(out.logits[0, -1].float(), temperature=temperature, top_p=top_p, chance=chance)
                ids = torch.cat([ids, token.view(1, 1)], dim=1)
                state = self._model._update_model_kwargs_for_generation(out, state, is_encoder_decoder=False)
            yield int(token)

    def ends(self, token: int) -> bool:
        return token == int(self._model.config.eos_token_id)

    def text(self, tokens: list[int]) -> str:
        """As it was written: `process_response` would change punctuation that a stream has told already."""
        return str(self._tokenizer.decode(tokens)).lstrip()


def chosen(logits: Any, *, temperature: float, top_p: float, chance: Any) -> Any:
    """The next token. Raises RuntimeError for logits that are no numbers."""
    import torch

    if not torch.isfinite(logits).all():
        raise RuntimeError("the model's logits are no numbers")
    if temperature == 0:
        return logits.argmax()
    chances, order = torch.softmax(logits / temperature, dim=-1).sort(descending=True)
    chances[chances.cumsum(-1) - chances > top_p] = 0
    return order[torch.multinomial(chances, 1, generator=chance)[0]]


def prompt_text(messages: list[dict[str, str]]) -> str:
    """As the checkpoint's `chat` writes it: a question alone stays bare. A system message goes before the next one."""
    rounds: list[tuple[str, str]] = []
    before, question = "", None
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "system":
            before += content + "\n"
        elif role == "user":
            question = before + content if question is None else f"{question}\n{content}"
            before = ""
        elif role == "assistant" and question is not None:
            rounds.append((question, content))
            question = None
        else:
            raise BadRequestError(f"messages: {role!r} is not expected here")
    if question is None:
        raise BadRequestError("messages: the last one is the user's")
    if not rounds:
        return question
    told = "".join(f"[Round {n}]\n问：{asked}\n答：{answer}\n" for n, (asked, answer) in enumerate(rounds))
    return f"{told}[Round {len(rounds)}]\n问：{question}\n答："


class Asked:
    """A chat completion's body. Raises BadRequestError."""

    def __init__(self, body: Any) -> None:
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list) or not body["messages"]:
            raise BadRequestError("messages: a list that is not empty")
        self.messages = [self._message(message) for message in body["messages"]]
        self.temperature = self._number(body, "temperature", 0.95, most=2)
        self.top_p = self._number(body, "top_p", 0.7, most=1)
        self.max_tokens = int(self._number(body, "max_tokens", CONTEXT_TOKENS, most=CONTEXT_TOKENS, least=1))
        self.seed = body.get("seed") if isinstance(body.get("seed"), int) else None
        stop = body.get("stop") or []
        self.stop = [stop] if isinstance(stop, str) else [str(text) for text in stop]
        self.stream = bool(body.get("stream"))

    @staticmethod
    def _message(message: Any) -> dict[str, str]:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise BadRequestError("messages: each has a role and a content of text")
        return {"role": str(message.get("role")), "content": message["content"]}

    @staticmethod
    def _number(body: dict[str, Any], name: str, unasked: float, *, most: float, least: float = 0) -> float:
        value = body.get(name)
        if value is None:
            return unasked
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise BadRequestError(f"{name}: a number from {least} to {most}")
        return float(value)


class Answer:
    """One answer in the making: its text so far, its tokens, and how it ended."""

    def __init__(self, chat: Chat, asked: Asked) -> None:
        self._chat = chat
        self._asked = asked
        self._inputs = chat.prompt(asked.messages)
        self.prompt_tokens = int(self._inputs["input_ids"].shape[1])
        self.tokens: list[int] = []
        self.text = ""
        self.finish = "length"

    @property
    def usage(self) -> dict[str, int]:
        """Every sampled token is counted, one that ends the answer too."""
        counted = len(self.tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": counted,
            "total_tokens": self.prompt_tokens + counted,
        }

    def pieces(self) -> Iterator[str]:
        """The text as it grows; "" for a token that adds none that can be shown yet."""
        asked = self._asked
        room = min(asked.max_tokens, CONTEXT_TOKENS - self.prompt_tokens)
        sampled = self._chat.tokens(self._inputs, temperature=asked.temperature, top_p=asked.top_p, seed=asked.seed)
        for token in sampled:
            self.tokens.append(token)
            if self._chat.ends(token):
                self.finish = "stop"
                break
            whole = self._chat.text(self.tokens)
            if cut := [whole.index(text) for text in asked.stop if text in whole]:
                self.finish = "stop"
                yield self._grown(whole[: min(cut)])
                return
            yield self._grown(whole[: len(whole) - held_back(whole, asked.stop)])
            if len(self.tokens) >= room:
                break
        kept = self.tokens[:-1] if self.finish == "stop" else self.tokens
        yield self._grown(self._chat.text(kept))

    def _grown(self, text: str) -> str:
        if not text.startswith(self.text):  # a stop string that began with what was told already
            return ""
        piece, self.text = text[len(self.text) :], text
        return piece


def held_back(text: str, stop: list[str]) -> int:
    """Characters at the end of `text` that are unfinished, or may begin a stop string."""
    whole = text.rstrip(UNFINISHED)
    begun = [n for word in stop for n in range(1, len(word)) if whole.endswith(word[:n])]
    return len(text) - len(whole) + max(begun, default=0)


def handler(chat: Chat) -> type[BaseHTTPRequestHandler]:
    """The wire of `chat`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._answer(200, {"object": "list", "data": [{"id": chat.name, "object": "model"}]})
            elif self.path == "/health":
                self._answer(200, {"status": "ok"})
            else:
                self._refuse(404, f"no {self.path} here")

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            if length > BODY_BYTES:
                self.close_connection = True
                self._refuse(413, f"a body has at most {BODY_BYTES} bytes")
                return
            body = self.rfile.read(length)
            if self.path != "/v1/chat/completions":
                self._refuse(404, f"no {self.path} here")
                return
            try:
                asked = Asked(json.loads(body))
                with chat.turn:
                    if not gone(self.connection):
                        self._complete(asked, Answer(chat, asked))
            except (BadRequestError, ValueError) as error:
                self._refuse(400, str(error))
            except ConnectionError:
                self.close_connection = True

        def _complete(self, asked: Asked, answer: Answer) -> None:
            head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": chat.name}
            event = self._stream() if asked.stream else None
            try:
                for piece in answer.pieces():
                    if gone(self.connection):
                        self.close_connection = True
                        return
                    if event and piece:
                        event(chunk(head, {"role": "assistant", "content": piece}, None))
            except ConnectionError:
                raise
            except Exception as error:  # the model's, its code's or the device's fault; the next request is served
                self._fail(f"the model failed: {error!r}"[:500], event)
                return
            if event is None:
                message = {"role": "assistant", "content": answer.text}
                choice = {"index": 0, "message": message, "finish_reason": answer.finish}
                self._answer(200, {**head, "object": "chat.completion", "choices": [choice], "usage": answer.usage})
                return
            event(chunk(head, {}, answer.finish))
            event({**head, "object": "chat.completion.chunk", "choices": [], "usage": answer.usage})
            self.wfile.write(b"data: [DONE]\n\n")

        def _fail(self, message: str, event: Callable[[Any], None] | None) -> None:
            print(message, file=sys.stderr)
            if event is None:
                self._refuse(500, message)
            else:
                event(refusal(message, "server_error"))

        def _stream(self) -> Callable[[dict[str, Any]], None]:
            """Send the head of a stream. What comes back sends an event, and the stream ends with the connection."""
            self.close_connection = True
            self.send_response(200)
            self.send_header("content-type", "text/event-stream; charset=utf-8")
            self.send_header("connection", "close")
            self.end_headers()

            def event(value: dict[str, Any]) -> None:
                self.wfile.write(b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n")

            return event

        def _refuse(self, status: int, message: str) -> None:
            kind = "invalid_request_error" if status < 500 else "server_error"
            self._answer(status, refusal(message, kind))

        def _answer(self, status: int, value: dict[str, Any]) -> None:
            body = json.dumps(value, ensure_ascii=False).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: a request line says little, and a prompt is never logged."""

    return Handler


def chunk(head: dict[str, Any], delta: dict[str, str], finish: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}


def refusal(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": None}}


def gone(connection: socket.socket) -> bool:
    """Whether the client has closed: a gateway does when a task is cancelled."""
    readable, _, _ = select.select([connection], [], [], 0)
    try:
        return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""
    except ConnectionError:
        return True


def load(path: str, *, device: str, name: str) -> Chat:
    """The checkpoint in `path`, by its own code."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    model = AutoModel.from_pretrained(path, trust_remote_code=True)
    model = model.half().to(device) if device.startswith("cuda") else model.float()
    return Chat(model.eval(), tokenizer, name=name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help="the checkpoint's folder, or its name on the hub")
    parser.add_argument("--trust-remote-code", action="store_true", help="its code is run: say that you know")
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, or cpu")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8006)
    parser.add_argument("--name", default="chatglm-6b", help="what the model is called on the wire")
    given = parser.parse_args()
    if not given.trust_remote_code:
        parser.error(f"{given.path} runs by code of its own: read it, then add --trust-remote-code")
    chat = load(given.path, device=given.device, name=given.name)
    server = ThreadingHTTPServer((given.host, given.port), handler(chat))
    print(f"{given.name} answers at http://{given.host}:{server.server_port}/v1", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
