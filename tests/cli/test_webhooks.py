"""`tollgate webhooks`, and `submit --callback-url`."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cli.conftest import Ended, Tollgate, Up
from tollgate.cli.doctor import webhooks as doctor
from tollgate.domain.ids import new_id
from tollgate.store.deliveries import Waiting
from tollgate.store.webhooks import Webhook

URL = "https://receiver.invalid/hook"
"""A name that no DNS has (RFC 2606): nothing leaves the machine."""
NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


@pytest.fixture
def project(up: Up, tollgate: Tollgate) -> Tollgate:
    """The command line with a key of a new project."""
    data = {"TOLLGATE_DATA": str(up.data)}
    key = tollgate("keys", "create", "--project", f"test-{uuid.uuid4().hex[:12]}", **data).stdout.strip()
    return lambda *arguments: tollgate(*arguments, **data, TOLLGATE_KEY=key)


def created(project: Tollgate, *options: str) -> Any:
    made = project("webhooks", "create", URL, "--json", *options)
    assert made.code == 0, made.stderr
    return made.json


def refused(ended: Ended, told: str, *, code: int) -> None:
    assert (ended.code, ended.stdout) == (code, "")
    assert told in ended.stderr


def test_an_endpoint_is_made_listed_and_deleted(project: Tollgate) -> None:
    made = project("webhooks", "create", URL, "--events", "task.failed, task.expired", "--description", "alarm")
    assert re.fullmatch(r"whsec_\S+\n", made.stdout)
    assert "task.expired, task.failed" in made.stderr
    (listed,) = project("webhooks", "list", "--json").json
    assert (listed["url"], listed["events"], listed["description"]) == (URL, ["task.expired", "task.failed"], "alarm")
    shown = project("webhooks", "list").stdout
    assert re.search(rf"{listed['id']} +{re.escape(URL)} +task\.expired, task\.failed +alarm .* active", shown)
    (again,) = re.findall(r"`tollgate (webhooks secret [^`]*)`", made.stderr)
    assert project(*again.split()).stdout == made.stdout
    assert project("webhooks", "delete", listed["id"]).stdout.startswith(f"webhook {listed['id']} is deleted")
    assert project("webhooks", "list", "--json").json == []
    refused(project("webhooks", "delete", listed["id"]), "no webhook", code=1)


def test_a_test_is_listed_and_sent_again(project: Tollgate) -> None:
    webhook = created(project)
    asked = project("webhooks", "test", webhook["id"])
    delivery_id = asked.stdout.strip()
    (listed,) = project("webhooks", "deliveries", "--webhook", webhook["id"], "--json").json_lines
    assert (listed["id"], listed["event"], listed["webhook_id"]) == (delivery_id, "webhook.test", webhook["id"])
    assert re.search(
        rf"{delivery_id} +webhook\.test +- +{re.escape(URL)} +pending", project("webhooks", "deliveries").stdout
    )
    again = project("webhooks", "redeliver", delivery_id, "--json").json
    assert (again["id"], again["state"]) == (delivery_id, "pending")
    ended = project("webhooks", "deliveries", "--state", "failed")
    assert (ended.code, ended.stdout, ended.stderr) == (0, "", "no delivery fits\n")


def test_pages_are_told_of_and_can_be_had_together(project: Tollgate) -> None:
    webhook = created(project)
    ids = [project("webhooks", "test", webhook["id"]).stdout.strip() for _ in range(3)]
    first = project("webhooks", "deliveries", "--limit", "2", "--json")
    assert [one["id"] for one in first.json_lines] == ids[:0:-1]
    assert f"--after {ids[1]}" in first.stderr
    rest = project("webhooks", "deliveries", "--after", ids[1], "--json")
    assert [one["id"] for one in rest.json_lines] == ids[:1]
    assert len(project("webhooks", "deliveries", "--all", "--json").json_lines) == 3


def test_the_projects_secret_can_be_made_anew(project: Tollgate) -> None:
    first = project("webhooks", "secret").stdout
    assert project("webhooks", "secret", "--json").json == {
        "object": "webhook_secret", "webhook_id": None, "secret": first.strip(),
    }  # fmt: skip
    second = project("webhooks", "secret", "--new").stdout
    assert second != first
    assert project("webhooks", "secret").stdout == second
    refused(project("webhooks", "secret", created(project)["id"], "--new"), "delete it", code=2)


def test_a_task_is_submitted_with_a_callback_url(project: Tollgate) -> None:
    (task,) = project("submit", "hello", "--callback-url", URL, "--wait", "--json").json_lines
    assert (task["callback_url"], task["state"]) == (URL, "succeeded")
    (told,) = project("webhooks", "deliveries", "--task", task["id"], "--json").json_lines
    assert (told["url"], told["event"], told["task_id"]) == (URL, "task.succeeded", task["id"])


@pytest.mark.parametrize(
    ("arguments", "told", "code"),
    [
        (("create", "http://receiver.invalid/"), "TOLLGATE_WEBHOOKS_ALLOW_HTTP", 2),
        (("create", "https://127.0.0.1/"), "TOLLGATE_WEBHOOKS_ALLOW_PRIVATE", 2),
        (("create", URL, "--events", "task.started"), "events", 2),
        (("create", URL, "--events", ""), "events", 2),
        (
            ("create", URL, "--description", "x" * 257),
            "description: this text is not allowed here (allowed: 1 to 256",
            2,
        ),
        (("test", "no-such"), "no webhook 'no-such'", 1),
        (("enable", "no?such#one"), "no webhook", 1),
        (("redeliver", "no-such"), "no delivery 'no-such'", 1),
        (("deliveries", "--state", "sent"), "state", 2),
        (("test", ""), "no webhook ''", 1),
        (("delete", ""), "no webhook ''", 1),
        (("secret", ""), "no webhook ''", 1),
        (("redeliver", ""), "no delivery ''", 1),
        (("deliveries", "--webhook", "nope"), "no webhook 'nope'", 1),
        (("deliveries", "--task", "nope"), "no task 'nope'", 1),
        (("deliveries", "--after", ""), "no delivery ''", 1),
    ],
)
def test_what_is_wrong_is_told(project: Tollgate, arguments: tuple[str, ...], told: str, code: int) -> None:
    refused(project("webhooks", *arguments), told, code=code)


@pytest.mark.parametrize("name", ["task.bogus", "webhook.test"])
def test_only_events_that_can_be_chosen_are_offered(project: Tollgate, name: str) -> None:
    ended = project("webhooks", "create", URL, "--events", f"task.failed,{name}")
    refused(ended, f"'{name}' is no event that can be chosen (allowed: a list of events (task.succeeded, ", code=2)
    assert ended.stderr.count("webhook.test") == (name == "webhook.test")


def test_a_wrong_callback_url_fails_its_line(project: Tollgate) -> None:
    refused(project("submit", "hello", "--callback-url", "https://10.0.0.1/"), "prompt 1: callback_url", code=1)


def a_webhook(**changes: Any) -> Webhook:
    plain = Webhook(
        id=new_id(),
        project_id=new_id(),
        url=URL,
        events=None,
        description=None,
        master="m",
        created_at=NOW,
        disabled_at=None,
        disabled_why=None,
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("waiting", "webhook", "told"),
    [
        (Waiting(count=3, since=NOW - timedelta(seconds=61)), a_webhook(), "3 deliveries are due, the first since"),
        (Waiting(count=0, since=None), a_webhook(disabled_at=NOW, disabled_why="gone"), "disabled"),
        (Waiting(count=0, since=None), a_webhook(master="lost"), "secrets of a master key that is not given"),
    ],
)
def test_the_doctor_warns(waiting: Waiting, webhook: Webhook, told: str) -> None:
    (check,) = doctor.check(waiting, [webhook], masters={"m"}, now=NOW)
    assert check.state == "warn"
    assert told in check.found
    assert check.fix


def test_the_doctor_is_content_with_what_is_not_late() -> None:
    waiting = Waiting(count=9, since=NOW - timedelta(seconds=59))
    (check,) = doctor.check(waiting, [a_webhook()], masters={"m"}, now=NOW)
    assert (check.state, check.found) == ("ok", "1 endpoint, no delivery is late")
