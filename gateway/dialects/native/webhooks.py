"""/webhooks: a project's endpoints, and the secrets that their deliveries are signed with."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import fastapi
import pydantic

from gateway import validation
from gateway.bodies import read_json, require_object
from gateway.dialects.native import render
from gateway.dialects.native.deliveries import delivery, require_enabled
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.route import KeyDep, json_response, require_id, route_class
from gateway.openapi import body_of
from gateway.services import Services, ServicesDep
from tollgate.domain.addresses import check_url
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.keys import MasterKey
from tollgate.domain.tasks import Key
from tollgate.domain.webhooks import SUBSCRIBED, Event, callback_secret, deliveries, endpoint_secret
from tollgate.store import deliveries as delivery_store
from tollgate.store import rows, webhooks
from tollgate.store.webhooks import CallbackSigner, Webhook

router = fastapi.APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=route_class(answer), responses=RESPONSES)

Description = Annotated[str, pydantic.StringConstraints(pattern=r"^\P{Cc}{1,256}$")]


def _chosen(name: object) -> Event:
    if not isinstance(name, str) or name not in SUBSCRIBED:
        raise ValueError(f"{name!r} is no event that can be chosen")
    return Event(name)


Subscribed = Annotated[
    Event, pydantic.BeforeValidator(_chosen), pydantic.WithJsonSchema({"type": "string", "enum": list(SUBSCRIBED)})
]


class WebhookBody(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    url: str = pydantic.Field(description="an https URL of the public internet")
    events: list[Subscribed] | None = pydantic.Field(
        None, min_length=1, description=f"a list of events ({', '.join(SUBSCRIBED)}), or null for all"
    )
    description: Description | None = pydantic.Field(None, description="1 to 256 characters, no control characters")


@router.post("", status_code=201, openapi_extra=body_of(WebhookBody))
async def create(request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """A new endpoint, told from now on of how the project's tasks end. Its secret is in the answer."""
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    asked = validation.check(body, WebhookBody)
    check_url(asked.url, rules=services.settings.callback_rules, field="url")
    async with services.database.write() as connection:
        made = await webhooks.add(
            connection,
            project_id=key.project_id,
            url=asked.url,
            events=asked.events,
            description=asked.description,
            master=services.keyring.first_master.fingerprint,
            now=datetime.now(UTC),
        )
    return json_response({**_shown(made), "secret": _secret_of(services, made)}, status=201)


@router.get("")
async def list_all(services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """The project's endpoints, without their secrets."""
    async with services.database.read() as connection:
        found = await webhooks.of_project(connection, key.project_id)
    return json_response({"object": "list", "data": [_shown(one) for one in found]})


@router.get("/secret")
async def read_callback_secret(services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """What the deliveries to the project's callback_urls are signed with."""
    async with services.database.write() as connection:
        signer = await webhooks.callback_signer(
            connection, key.project_id, master=services.keyring.first_master.fingerprint, now=datetime.now(UTC)
        )
    return json_response(_callback_secret(services, signer))


@router.post("/secret")
async def renew_callback_secret(services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Another secret for the callback_urls. The one before signs nothing any more."""
    async with services.database.write() as connection:
        signer = await webhooks.renew_callback_signer(
            connection, key.project_id, master=services.keyring.first_master.fingerprint, now=datetime.now(UTC)
        )
    return json_response(_callback_secret(services, signer))


@router.get("/{webhook_id}")
async def get(webhook_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """One endpoint, without its secret."""
    return json_response(_shown(await _find(services, key, webhook_id)))


@router.delete("/{webhook_id}")
async def delete(webhook_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Told of nothing any more; what is still to be delivered to it fails. Answers it as it was."""
    asked = _id(webhook_id)
    async with services.database.write() as connection:
        found = await webhooks.delete(connection, asked, project_id=key.project_id, now=datetime.now(UTC))
    return json_response(_shown(found))


@router.get("/{webhook_id}/secret")
async def read_secret(webhook_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """What the deliveries to this endpoint are signed with."""
    found = await _find(services, key, webhook_id)
    secret = _secret_of(services, found)
    return json_response({"object": "webhook_secret", "webhook_id": str(found.id), "secret": secret})


@router.post("/{webhook_id}/enable")
async def enable(webhook_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Told again of what happens from now on, after it was disabled by a 410."""
    asked = _id(webhook_id)
    async with services.database.write() as connection:
        found = await webhooks.enable(connection, asked, project_id=key.project_id)
    return json_response(_shown(found))


@router.post("/{webhook_id}/test", status_code=202)
async def test(webhook_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Send it a `webhook.test`. Answers the delivery, which leaves within some seconds."""
    asked = _id(webhook_id)
    async with services.database.write() as connection:
        found = await webhooks.find(connection, asked, project_id=key.project_id)
        require_enabled(found)
        endpoint = webhooks.as_endpoint(found)
        now = datetime.now(UTC)
        new = list(deliveries(Event.WEBHOOK_TEST, project_id=key.project_id, now=now, endpoints=[endpoint]))
        await rows.execute_together(connection, delivery_store.written(new))
        made = await delivery_store.find(connection, new[0].id, project_id=key.project_id)
    return json_response(delivery(made), status=202)


def _id(text: str) -> UUID:
    return require_id(text, kind="webhook")


async def _find(services: Services, key: Key, webhook_id: str) -> Webhook:
    asked = _id(webhook_id)
    async with services.database.read() as connection:
        return await webhooks.find(connection, asked, project_id=key.project_id)


def _secret_of(services: Services, one: Webhook) -> str:
    master = _master(services, one.master, fix=f"delete webhook {one.id}, and create it anew")
    return endpoint_secret(master, webhook_id=one.id)


def _callback_secret(services: Services, signer: CallbackSigner) -> dict[str, Any]:
    master = _master(services, signer.master, fix="make a new one: POST /webhooks/secret")
    secret = callback_secret(master, project_id=signer.project_id, version=signer.version)
    return {"object": "webhook_secret", "webhook_id": None, "secret": secret}


def _master(services: Services, fingerprint: str, *, fix: str) -> MasterKey:
    master = services.keyring.master(fingerprint)
    if master is None:
        raise InvalidRequestError(
            f"this secret was made with the master key {fingerprint}, which the gateway does not have any more; {fix}",
            field="webhook_id",
        )
    return master


def _shown(one: Webhook) -> dict[str, Any]:
    return {
        "id": str(one.id),
        "object": "webhook",
        "url": one.url,
        "events": None if one.events is None else list(one.events),
        "description": one.description,
        "created_at": render.time(one.created_at),
        "disabled_at": render.time(one.disabled_at),
        "disabled_why": one.disabled_why,
    }
