"""The credentials of the upstreams, tried with questions that cost nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from tollgate.cli.doctor import inference_servers
from tollgate.cli.doctor.report import Check, fail, ok, warn
from tollgate.domain import local_models
from tollgate.domain.errors import SettingsError, UpstreamError
from tollgate.domain.routing import Catalog, UpstreamSpec
from tollgate.domain.verdicts import Action, judge
from tollgate.settings import Settings

if TYPE_CHECKING:
    import httpx2
    from zhipuai import ZhipuAI

TIMEOUT_S = 5.0
NOBODYS_TASK = "tollgate-doctor"


def check(catalog: Catalog, settings: Settings) -> list[Check]:
    """A check for each credential of each upstream."""
    local = [_local(spec, catalog, settings) for spec in catalog.upstreams.values() if spec.kind == "local"]
    called = [spec for spec in catalog.upstreams.values() if spec.kind != "local"]
    if settings.model is not None and not local:
        told = "TOLLGATE_MODEL is set, and models.toml has no local upstream: `tollgate up` adds one, a worker does not"
        local = [warn("local model", told, fix=f"write into models.toml:\n{local_models.lines_for(settings.model)}")]
    asked: dict[str, set[str]] = {name: set() for name in catalog.upstreams}
    for route in (route for model in catalog.models.values() for route in model.routes):
        asked[route.upstream].add(route.model)
    found = [one for spec in called for one in _upstream(spec, settings.environment, models=asked[spec.name])]
    return found + local


def _local(spec: UpstreamSpec, catalog: Catalog, settings: Settings) -> Check:
    """Whether this machine's TOLLGATE_MODEL is it, and could be served."""
    from worker.upstreams.local import checkpoints

    name = f"upstream {spec.name}"
    if settings.model is None:
        return ok(name, "a model in workers of the lanes local; TOLLGATE_MODEL is not set here")
    try:
        chosen = local_models.choose(settings.model, catalog)
        if chosen.upstream != spec.name:
            return ok(name, f"a model in other workers: TOLLGATE_MODEL is upstream {chosen.upstream}")
        checkpoint = checkpoints.read(chosen.source)
    except SettingsError as error:
        return fail(name, str(error), fix="correct TOLLGATE_MODEL")
    for finding in checkpoint.findings:
        if finding.fatal:
            return fail(name, f"{chosen.source}: {finding.problem}", fix=finding.fix)
    return ok(name, f"{chosen.source} ({checkpoint.class_name}); tollgate models check {chosen.source} says what fits")


def _upstream(spec: UpstreamSpec, environment: Mapping[str, str], *, models: Collection[str]) -> list[Check]:
    """`models`: those that are asked of it, by their names there."""
    from worker.upstreams import registry

    name = f"upstream {spec.name}"
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
    named = {f"{name} {credential}".rstrip(): secret for credential, secret in (secrets or {"": ""}).items()}
    if spec.kind == "zhipu":
        return [_ask_zhipu(one, url, secret) for one, secret in named.items()]
    asked = [_ask_openai(one, url, secret, models=models) for one, secret in named.items()]
    if any(one.state != "fail" for one in asked):
        asked += _ask_server(name, url, next(iter(named.values())))
    return asked


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


def _ask_openai(name: str, url: str, secret: str, *, models: Collection[str]) -> Check:
    try:
        answer = _get(f"{url}/models", secret)
    except OSError as error:
        return _unreachable(name, url, error)
    found = judged(name, url, status=answer.status_code, body=answer.text)
    lacks = inference_servers.check_models(name, answer.text, models) if answer.status_code == 200 else None
    return lacks if found.state == "ok" and lacks is not None else found


def _ask_server(name: str, url: str, secret: str) -> list[Check]:
    """What it says of itself, if it does: how it is, and its load."""
    root = inference_servers.root_of(url)
    try:
        told = (
            inference_servers.check_health(name, _get(f"{root}/health", secret)),
            inference_servers.check_load(name, _get(f"{root}/metrics", secret)),
        )
    except OSError as error:
        return [_unreachable(name, root, error)]
    return [one for one in told if one is not None]


def _get(url: str, secret: str) -> httpx2.Response:
    """Raises OSError where there is no answer."""
    import httpx2

    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    try:
        return httpx2.get(url, headers=headers, timeout=TIMEOUT_S)
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise ConnectionError(str(error) or type(error).__name__) from error


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
