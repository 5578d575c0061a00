"""The credentials of the upstreams, tried with questions that cost nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tollgate.cli.doctor.report import Check, fail, ok, warn
from tollgate.domain.errors import SettingsError, UpstreamError
from tollgate.domain.routing import Catalog, UpstreamSpec
from tollgate.domain.verdicts import Action, judge
from tollgate.settings import Settings

if TYPE_CHECKING:
    from zhipuai import ZhipuAI

TIMEOUT_S = 5.0
NOBODYS_TASK = "tollgate-doctor"


def check(catalog: Catalog, settings: Settings) -> list[Check]:
    """A check for each credential of each upstream."""
    return [one for spec in catalog.upstreams.values() for one in _upstream(spec, settings.environment)]


def _upstream(spec: UpstreamSpec, environment: Mapping[str, str]) -> list[Check]:
    from worker.upstreams import registry

    name = f"upstream {spec.name}"
    if spec.kind == "local":
        return [ok(name, "a model in the workers of the local lanes")]
    secrets = registry.secrets_of(spec, environment)
    if spec.credentials and not secrets:
        variables = " or ".join(variable for credential in spec.credentials for variable in credential.variables)
        return [
            warn(
                name,
                "no key is set; `tollgate up` takes the simulator, elsewhere its tasks wait",
                fix=f"set {variables}",
            )
        ]
    try:
        url = registry.base_url_of(spec, environment)
    except SettingsError as error:
        return [fail(name, str(error))]
    ask = _ask_zhipu if spec.kind == "zhipu" else _ask_openai
    return [ask(f"{name} {credential}".rstrip(), url, secret) for credential, secret in (secrets or {"": ""}).items()]


def judged(name: str, url: str, *, status: int, body: str) -> Check:
    """What an answer says about the credential. Only a refused key or account is a failure: the question itself
    may be unknown to a server that works."""
    code, message = _error(body)
    error = UpstreamError(message, code=code, http_status=status)
    if status < 300 and code is None:
        return ok(name, f"{url} accepts it")
    verdict = judge(error)
    told = f"HTTP {status}" + (f", {code}: {message}" if code else "")
    if verdict.action is Action.PAUSE:
        return fail(name, f"{url} refuses it: {told}", fix=_fix(verdict.reason))
    if status >= 500 or status == 429:
        return warn(name, f"{url} is not well: {told}", fix="ask again later")
    if 300 <= status < 400:
        return fail(name, f"{url} points elsewhere: {told}", fix="correct base_url in models.toml")
    return ok(name, f"{url} answers, and does not refuse it ({told})")


def _ask_zhipu(name: str, url: str, secret: str) -> Check:
    """By ZhipuAI's own SDK: the list of files; where there is none (a stand-in), the result of nobody's task."""
    import zhipuai

    try:
        # max_retries=0: the SDK would send each question up to four times.
        with zhipuai.ZhipuAI(api_key=secret, base_url=url, max_retries=0, timeout=TIMEOUT_S) as client:
            try:
                client.files.list(limit=1)
            except zhipuai.APIStatusError as error:
                if error.status_code != 404:
                    raise
                _ask_for_nobodys_task(client)
    except zhipuai.APIStatusError as error:
        return judged(name, url, status=error.status_code, body=error.response.text)
    except (zhipuai.ZhipuAIError, ValueError, OSError) as error:
        return _unreachable(name, url, error)
    return ok(name, f"{url} accepts it")


def _ask_for_nobodys_task(client: ZhipuAI) -> None:
    client.chat.asyncCompletions.retrieve_completion_result(NOBODYS_TASK)


def _ask_openai(name: str, url: str, secret: str) -> Check:
    import httpx2

    try:
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        answer = httpx2.get(f"{url}/models", headers=headers, timeout=TIMEOUT_S)
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        return _unreachable(name, url, error)
    return judged(name, url, status=answer.status_code, body=answer.text)


def _unreachable(name: str, url: str, error: Exception) -> Check:
    cause = f"{error}{f' ({error.__cause__})' if error.__cause__ else ''}" or type(error).__name__
    return fail(name, f"{url} does not answer: {cause}", fix="is the address right, and the network open?")


def _fix(reason: str) -> str:
    return {"no_balance": "top up the account", "bad_key": "set a valid key"}.get(
        reason, "see the account at the upstream"
    )


def _error(body: str) -> tuple[str | None, str]:
    """Code and message of `{"error": {"code", "message"}}`; None where there is no such body."""
    try:
        error = json.loads(body)["error"]
        code = error.get("code")
        return (None if code is None else str(code), str(error.get("message") or ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, ""
