"""The tables. Their CHECKs, keys and partial indexes state what the code may assume.

`tasks` is narrow and hot: every transition is one guarded UPDATE there. Bodies stand apart, in
`task_requests` and `task_results`, written once, as the text that came. Money is integer nano-units
(1e-9) of the installation's one currency. Instants are UTC.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from tollgate.domain.states import AttemptOutcome, OnUncertain, Role, TaskState
from tollgate.domain.webhooks import DeliveryState

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class Instant(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime: timestamptz on PostgreSQL, sortable text on SQLite, which has no zones."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.replace(tzinfo=UTC)


def one_of(column: str, values: Iterable[StrEnum | str]) -> sa.CheckConstraint:
    """CHECK (column IN (...)); its name is the column's."""
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=column)


def required(name: str, kind: Any, *args: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, *args, nullable=False, **options)


def count(name: str) -> sa.Column[Any]:
    """A number that starts at zero and is never negative by the schema's CHECKs where it matters."""
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))


def sharded(name: str, column: str) -> sa.Index:
    """Of a roll-up: its rows in other shards than 0, which are few once beat has merged the past."""
    return sa.Index(name, column, postgresql_where=sa.text("shard > 0"), sqlite_where=sa.text("shard > 0"))


QUEUED = sa.literal(TaskState.QUEUED, sa.String(16), literal_execute=True)
RUNNING = sa.literal(TaskState.RUNNING, sa.String(16), literal_execute=True)
"""For conditions: written into the statement's text. With a parameter there, a prepared statement's generic
plan could not use a partial index, and would scan the table."""

NO_FEED = sa.text("'00000000-0000-0000-0000-000000000000'")
"""For rows older than the column; their migration gave each its own."""
LANES = ("cloud.interactive", "cloud.bulk", "local.interactive", "local.bulk")

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    required("name", sa.String(64), unique=True),
    required("created_at", Instant),
)

masters = sa.Table(
    "masters",
    metadata,
    sa.Column("fingerprint", sa.String(16), primary_key=True),
    required("created_at", Instant),
    comment="fingerprints of the master keys that ever made a key here; a stranger stops the start",
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    required("name", sa.String(64)),
    required("role", sa.String(8)),
    required("master", sa.String(16), sa.ForeignKey("masters.fingerprint")),
    required("version", sa.Integer),
    sa.Column("models", sa.Text, comment="JSON list of the models it may use; null: all"),
    required("may_interactive", sa.Boolean, server_default=sa.true(), comment="its right to priority interactive"),
    sa.Column("requests_per_minute", sa.BigInteger, comment="null: not limited, as below"),
    sa.Column("tokens_per_minute", sa.BigInteger, comment="of interactive tasks; its tasks in flight are a budget's"),
    required("created_at", Instant),
    sa.Column("expires_at", Instant),
    sa.Column("revoked_at", Instant),
    one_of("role", Role),
    sa.Index("ix_api_keys_project_id", "project_id"),
    comment="no secret: it is derived from the master key, id and version",
)

labels = sa.Table(
    "labels",
    metadata,
    sa.Column("project_id", sa.Uuid, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("label", sa.String(64), primary_key=True),
    comment="the labels in use: a dimension of the accounts, so their number a project is bounded",
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    required("filename", sa.Text),
    required("purpose", sa.String(32)),
    required("bytes", sa.BigInteger),
    required("sha256", sa.String(64)),
    required("created_at", Instant),
    sa.Column("expires_at", Instant),
    sa.Index("ix_files_project_id_id", "project_id", "id"),
)

BATCH_STATES = (
    "validating", "in_progress", "paused", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled",
)  # fmt: skip

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    required("key_id", sa.String(64), sa.ForeignKey("api_keys.id")),
    required("state", sa.String(16)),
    required("endpoint", sa.String(64)),
    sa.Column("input_file_id", sa.Uuid),
    sa.Column("output_file_id", sa.Uuid),
    sa.Column("error_file_id", sa.Uuid),
    required("via", sa.String(16), server_default="direct"),
    sa.Column("max_cost_nano", sa.BigInteger),
    sa.Column("metadata", sa.Text),
    sa.Column("callback_url", sa.Text, comment="told of its end"),
    count("total"),
    count("completed"),
    count("failed"),
    required("created_at", Instant),
    sa.Column("expires_at", Instant),
    sa.Column("ended_at", Instant),
    one_of("state", BATCH_STATES),
    one_of("via", ("direct", "upstream_batch", "local")),
    sa.Index("ix_batches_project_id_id", "project_id", "id"),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="UUIDv7: sorts by the time of submission"),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    required("key_id", sa.String(64), sa.ForeignKey("api_keys.id")),
    sa.Column("batch_id", sa.Uuid, sa.ForeignKey("batches.id")),
    sa.Column("custom_id", sa.Text),
    sa.Column("request_id", sa.Text, comment="the client's; idempotency key within the project"),
    required("digest", sa.String(64), comment="SHA-256 of the parsed request"),
    sa.Column("label", sa.String(64)),
    required("endpoint", sa.String(16), server_default="chat"),
    required("model", sa.String(128), comment="the name the client asked for"),
    required("route", sa.String(256), comment="upstream/model there: where it runs next"),
    required("lane", sa.String(32), comment="the Celery queue: place and priority"),
    required("mode", sa.String(8), server_default="direct", comment="how it is asked: one call, or submit and poll"),
    required(
        "streamed",
        sa.Boolean,
        server_default=sa.false(),
        comment="its upstream is asked for a stream, told on as it comes",
    ),
    required("feed", sa.Uuid, server_default=NO_FEED, comment="its batch, else its project: feeds take turns"),
    required("state", sa.String(16)),
    required("fence", sa.Integer, server_default=sa.text("0"), comment="counts leases; guards every transition"),
    required("attempt", sa.Integer, server_default=sa.text("1"), comment="number of the open or next purchase"),
    required("tries", sa.Integer, server_default=sa.text("0"), comment="failed tries so far, over all attempts"),
    required(
        "route_tries",
        sa.Integer,
        server_default=sa.text("0"),
        comment="failed tries on this route that count towards leaving it",
    ),
    required(
        "refused_attempts",
        sa.Integer,
        server_default=sa.text("0"),
        comment="attempts that bought nothing, closed as the task went to another route",
    ),
    sa.Column("worker_id", sa.Uuid, comment="who holds the lease while running"),
    sa.Column("announced_at", Instant, comment="lease on the hint: announced again some time after"),
    required("not_before", Instant, comment="due from then on: run_after, or the next retry"),
    required("deadline", Instant, comment="queued past it, the task expires"),
    required("retry_until", Instant, comment="no retry starts after it"),
    required("on_uncertain", sa.String(8), server_default=OnUncertain.RETRY),
    sa.Column("cancel_requested_at", Instant),
    required("prompt_tokens_estimate", sa.Integer, comment="of the request, leaning high"),
    sa.Column("max_tokens", sa.Integer, comment="the request's own bound on the completion"),
    required(
        "assumed_max_tokens",
        sa.Integer,
        server_default=sa.text("4096"),
        comment="of a completion, where max_tokens is null",
    ),
    sa.Column("callback_url", sa.Text, comment="told of its end"),
    sa.Column("reserved_nano", sa.BigInteger, comment="held in the budgets; null: nothing is"),
    sa.Column("reserved_tokens", sa.BigInteger),
    sa.Column("charged_to", sa.Text, comment="periods of budgets, comma-separated id@first-day; null: none"),
    required("created_at", Instant),
    sa.Column("started_at", Instant, comment="first claimed"),
    sa.Column("ended_at", Instant),
    one_of("state", TaskState),
    one_of("lane", LANES),
    one_of("endpoint", ("chat", "embeddings")),
    one_of("mode", ("direct", "async")),
    one_of("on_uncertain", OnUncertain),
    sa.CheckConstraint("(state = 'running') = (worker_id IS NOT NULL)", name="running_has_worker"),
    sa.CheckConstraint("(state IN ('queued', 'running')) = (ended_at IS NULL)", name="ended_has_time"),
    sa.Index(
        "uq_tasks_project_id_request_id",
        "project_id",
        "request_id",
        unique=True,
        postgresql_where=sa.text("request_id IS NOT NULL"),
        sqlite_where=sa.text("request_id IS NOT NULL"),
    ),
    sa.Index(
        "ix_tasks_due",
        "route",
        "lane",
        "feed",
        "not_before",
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    ),
    sa.Index(
        "ix_tasks_deadline",
        "deadline",
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    ),
    sa.Index(
        "ix_tasks_worker_id",
        "worker_id",
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    ),
    sa.Index("ix_tasks_project_id_id", "project_id", "id"),
    sa.Index(
        "ix_tasks_project_id_custom_id",
        "project_id",
        "custom_id",
        postgresql_where=sa.text("custom_id IS NOT NULL"),
        sqlite_where=sa.text("custom_id IS NOT NULL"),
    ),
    sa.Index(
        "ix_tasks_batch_id_id",
        "batch_id",
        "id",
        postgresql_where=sa.text("batch_id IS NOT NULL"),
        sqlite_where=sa.text("batch_id IS NOT NULL"),
    ),
)

QUEUED_BY_ID = (tasks.c.state + "") == QUEUED
"""The same, as a check of rows that are found by their ids. Statistics lag behind a queue that just filled: the
planner then takes an index of the queued rows for nearly empty, and reads all of it. This hides the index."""

task_requests = sa.Table(
    "task_requests",
    metadata,
    sa.Column("task_id", sa.Uuid, sa.ForeignKey("tasks.id"), primary_key=True),
    required("body", sa.Text, comment="JSON: what the upstream is sent, with the client's model name"),
    sa.Column("metadata", sa.Text, comment="JSON: the client's own, never sent upstream"),
)

task_results = sa.Table(
    "task_results",
    metadata,
    sa.Column("task_id", sa.Uuid, sa.ForeignKey("tasks.id"), primary_key=True),
    required("attempt", sa.Integer, comment="0: ended without one"),
    sa.Column("body", sa.Text, comment="JSON as the upstream sent it"),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_message", sa.Text),
    sa.CheckConstraint("(body IS NULL) <> (error_code IS NULL)", name="result_or_error"),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("task_id", sa.Uuid, sa.ForeignKey("tasks.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, comment="counts purchases"),
    required("fence", sa.Integer, comment="the lease that last held it"),
    required("worker_id", sa.Uuid),
    required("upstream", sa.String(128)),
    required("upstream_model", sa.String(128)),
    required("mode", sa.String(8), server_default="direct"),
    required("request_id", sa.String(64), comment="ours, sent upstream"),
    sa.Column("upstream_id", sa.Text, comment="the upstream's id of a call that is polled"),
    sa.Column("credential", sa.String(128), comment="the variable of the key that upstream_id belongs to"),
    required(
        "unanswered",
        sa.Integer,
        server_default=sa.text("0"),
        comment="sends whose answer never came: the upstream may know the request_id",
    ),
    required("outcome", sa.String(16)),
    required("tries", sa.Integer, comment="how often it was sent"),
    sa.Column("http_status", sa.Integer),
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_message", sa.Text),
    sa.Column("prompt_tokens", sa.Integer),
    sa.Column("cached_tokens", sa.Integer),
    sa.Column("completion_tokens", sa.Integer),
    sa.Column("price_id", sa.String(256), sa.ForeignKey("prices.id"), comment="price version; null: unpriced"),
    sa.Column("price_tier", sa.String(64)),
    sa.Column("cost_nano", sa.BigInteger, comment="null: nothing was billed, or there is no price"),
    required("cost_estimated", sa.Boolean, server_default=sa.false()),
    sa.Column("possible_cost_nano", sa.BigInteger, comment="of an uncertain attempt, and of one that is polled"),
    sa.Column("possible_tokens", sa.BigInteger, comment="the same in tokens"),
    required("started_at", Instant, comment="its hour is where the roll-up books it"),
    sa.Column("ended_at", Instant),
    one_of("outcome", AttemptOutcome),
    one_of("mode", ("direct", "async", "batch", "local")),
    sa.CheckConstraint("(outcome = 'open') = (ended_at IS NULL)", name="ended_has_time"),
)

USAGE_KEY = ("hour", "project_id", "key_id", "model", "upstream", "label", "shard")
DAILY_KEY = ("day", *USAGE_KEY[1:])
TOTALS_KEY = ("day", "project_id", "model", "upstream", "shard")
"""Of the roll-ups, by which their rows are locked in order."""
USAGE_COUNTS = (
    "tasks_succeeded", "tasks_failed",
    "attempts", "attempts_failed", "attempts_uncertain", "attempts_unpriced", "attempts_estimated",
    "prompt_tokens", "cached_tokens", "completion_tokens",
    "cost_nano", "possible_cost_nano",
)  # fmt: skip

usage_hourly = sa.Table(
    "usage_hourly",
    metadata,
    sa.Column("hour", Instant, primary_key=True),
    sa.Column("project_id", sa.Uuid, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("key_id", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(128), primary_key=True),
    sa.Column("upstream", sa.String(128), primary_key=True, comment="'' for tasks that ended without an attempt"),
    sa.Column("label", sa.String(64), primary_key=True, comment="'' for none"),
    sa.Column("shard", sa.SmallInteger, primary_key=True, comment="0..15: settling workers do not queue up"),
    *(count(name) for name in USAGE_COUNTS),
    sa.Index("ix_usage_hourly_project_id_hour", "project_id", "hour"),
    sharded("ix_usage_hourly_sharded", "hour"),
    comment="attempts by the hour of their start, ends of tasks by the hour of their end",
)

usage_daily = sa.Table(
    "usage_daily",
    metadata,
    sa.Column("day", sa.Date, primary_key=True, comment="in UTC"),
    sa.Column("project_id", sa.Uuid, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("key_id", sa.String(64), primary_key=True),
    sa.Column("model", sa.String(128), primary_key=True),
    sa.Column("upstream", sa.String(128), primary_key=True, comment="'' for tasks that ended without an attempt"),
    sa.Column("label", sa.String(64), primary_key=True, comment="'' for none"),
    sa.Column("shard", sa.SmallInteger, primary_key=True, comment="0..15: settling workers do not queue up"),
    *(count(name) for name in USAGE_COUNTS),
    sa.Index("ix_usage_daily_project_id_day", "project_id", "day"),
    sharded("ix_usage_daily_sharded", "day"),
    comment="usage_hourly by day",
)

usage_daily_totals = sa.Table(
    "usage_daily_totals",
    metadata,
    sa.Column("day", sa.Date, primary_key=True, comment="in UTC"),
    sa.Column("project_id", sa.Uuid, sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("model", sa.String(128), primary_key=True),
    sa.Column("upstream", sa.String(128), primary_key=True, comment="'' for tasks that ended without an attempt"),
    sa.Column("shard", sa.SmallInteger, primary_key=True, comment="0..15: settling workers do not queue up"),
    *(count(name) for name in USAGE_COUNTS),
    sa.Index("ix_usage_daily_totals_project_id_day", "project_id", "day"),
    sharded("ix_usage_daily_totals_sharded", "day"),
    comment="usage_daily over all keys and labels: what most questions ask for, in a fraction of the rows",
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    required("name", sa.Text, comment="host and process, for people"),
    required("lanes", sa.Text, comment="comma-separated"),
    required("load", sa.Text, comment="JSON: route -> [settled in the last 10 s, free slots]"),
    required("heartbeat", sa.BigInteger, comment="counts beats; watchers compare values, never clocks"),
    required("dead", sa.Boolean, server_default=sa.false()),
    required("started_at", Instant),
    required("seen_at", Instant, comment="of the last heartbeat, for people"),
    sa.Index(
        "ix_workers_alive",
        "id",
        postgresql_where=sa.text("NOT dead"),
        sqlite_where=sa.text("NOT dead"),
    ),
)

pauses = sa.Table(
    "pauses",
    metadata,
    sa.Column("upstream", sa.String(128), primary_key=True),
    sa.Column("credential", sa.String(128), primary_key=True, comment="the variable that holds the key"),
    required("reason", sa.Text),
    required("since", Instant),
    required("until", Instant, comment="one probe task then lifts it, or pauses on"),
)

prices = sa.Table(
    "prices",
    metadata,
    sa.Column("id", sa.String(256), primary_key=True, comment="upstream/model@valid-from#digest"),
    required("upstream", sa.String(128)),
    required("model", sa.String(128)),
    required("valid_from", Instant),
    required("content", sa.Text, comment="JSON: tiers, currency; never changed once written"),
    required("published_at", Instant, comment="of two with one valid-from the later published counts"),
)

BUDGET_PERIODS = ("day", "month", "total", "in_flight")

budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    sa.Column("key_id", sa.String(64), sa.ForeignKey("api_keys.id"), comment="null: the whole project's"),
    required("period", sa.String(16)),
    sa.Column("limit_nano", sa.BigInteger),
    sa.Column("limit_tokens", sa.BigInteger),
    sa.Column("limit_tasks", sa.BigInteger, comment="open at once; only of period in_flight"),
    required("created_at", Instant),
    one_of("period", BUDGET_PERIODS),
    sa.CheckConstraint(
        "(limit_nano IS NOT NULL OR limit_tokens IS NOT NULL) = (limit_tasks IS NULL)", name="limits_something"
    ),
    sa.CheckConstraint("(limit_tasks IS NOT NULL) = (period = 'in_flight')", name="tasks_are_in_flight"),
    sa.Index("ix_budgets_project_id", "project_id"),
    sa.Index(
        "uq_budgets_project_id_period",
        "project_id",
        "period",
        unique=True,
        postgresql_where=sa.text("key_id IS NULL"),
        sqlite_where=sa.text("key_id IS NULL"),
    ),
    sa.Index(
        "uq_budgets_key_id_period",
        "key_id",
        "period",
        unique=True,
        postgresql_where=sa.text("key_id IS NOT NULL"),
        sqlite_where=sa.text("key_id IS NOT NULL"),
    ),
)

budget_periods = sa.Table(
    "budget_periods",
    metadata,
    sa.Column("budget_id", sa.Uuid, sa.ForeignKey("budgets.id"), primary_key=True),
    sa.Column("starts_on", sa.Date, primary_key=True),
    count("reserved_nano"),
    count("reserved_tokens"),
    count("reserved_tasks"),
    count("spent_nano"),
    count("spent_tokens"),
    count("uncertain_nano"),
    count("uncertain_tokens"),
    sa.CheckConstraint(
        "reserved_nano >= 0 AND reserved_tokens >= 0 AND reserved_tasks >= 0", name="reserves_nothing_negative"
    ),
)

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    required("url", sa.Text),
    sa.Column("events", sa.Text, comment="JSON list; null: all there are"),
    sa.Column("description", sa.Text),
    required("master", sa.String(16), sa.ForeignKey("masters.fingerprint")),
    required("created_at", Instant),
    sa.Column("disabled_at", Instant),
    sa.Column("disabled_why", sa.Text),
    sa.Column("deleted_at", Instant, comment="it stays, for the deliveries that were made to it"),
    sa.Index("ix_webhooks_project_id", "project_id"),
    comment="no secret: it is derived from the master key and the id",
)

callback_secrets = sa.Table(
    "callback_secrets",
    metadata,
    sa.Column("project_id", sa.Uuid, sa.ForeignKey("projects.id"), primary_key=True),
    required("master", sa.String(16), sa.ForeignKey("masters.fingerprint")),
    required("version", sa.Integer),
    required("created_at", Instant),
    comment="what signs the deliveries to a project's callback_urls; made when it is first needed",
)

PENDING = sa.literal(DeliveryState.PENDING, sa.String(16), literal_execute=True)
"""For conditions, as QUEUED is."""
_WHERE_PENDING = sa.text("state = 'pending'")
_WHERE_ENDED = sa.text("ended_at IS NOT NULL")
_WHERE_FAILED = sa.text("state = 'failed'")

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="also of the message: the same for each try"),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    sa.Column("webhook_id", sa.Uuid, sa.ForeignKey("webhooks.id"), comment="null: to the callback_url in `url`"),
    sa.Column("url", sa.Text),
    required("host", sa.Text, comment="of the URL, and the project: what is in flight is bounded by both"),
    sa.Column("task_id", sa.Uuid),
    sa.Column("batch_id", sa.Uuid),
    required("event", sa.String(32)),
    required("state", sa.String(16)),
    required("tries", sa.Integer, server_default=sa.text("0"), comment="begun so far; guards what a try may write"),
    required("tries_before", sa.Integer, server_default=sa.text("0"), comment="those of earlier rounds"),
    required("not_before", Instant, comment="due from then on; while it is sent, the end of the sender's lease"),
    required("created_at", Instant),
    sa.Column("first_tried_at", Instant, comment="in this round: it is given up a day later"),
    sa.Column("last_tried_at", Instant),
    sa.Column("ended_at", Instant),
    sa.Column("http_status", sa.Integer, comment="of the last try that was answered"),
    sa.Column("error", sa.Text, comment="of the last try; null: it was delivered"),
    sa.Column("response", sa.Text, comment="how the last answer began"),
    one_of("state", DeliveryState),
    sa.CheckConstraint("(state = 'pending') = (ended_at IS NULL)", name="ended_has_time"),
    sa.CheckConstraint("(webhook_id IS NULL) = (url IS NOT NULL)", name="goes_to_one"),
    sa.Index(
        "ix_webhook_deliveries_due",
        "host",
        "not_before",
        postgresql_where=_WHERE_PENDING,
        sqlite_where=_WHERE_PENDING,
    ),
    sa.Index("ix_webhook_deliveries_project_id_id", "project_id", "id"),
    sa.Index(
        "ix_webhook_deliveries_project_id_failed",
        "project_id",
        "id",
        postgresql_where=_WHERE_FAILED,
        sqlite_where=_WHERE_FAILED,
    ),
    sa.Index("ix_webhook_deliveries_webhook_id_id", "webhook_id", "id"),
    sa.Index("ix_webhook_deliveries_task_id", "task_id"),
    sa.Index(
        "ix_webhook_deliveries_ended", "state", "ended_at", postgresql_where=_WHERE_ENDED, sqlite_where=_WHERE_ENDED
    ),
)
