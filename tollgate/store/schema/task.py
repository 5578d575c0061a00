"""Tasks, and apart from them, written once, what was asked and answered."""

from __future__ import annotations

import sqlalchemy as sa

from tollgate.domain.states import OnUncertain, TaskState
from tollgate.store.schema.columns import Instant, metadata, one_of, partial, required

QUEUED = sa.literal_column(f"'{TaskState.QUEUED}'", sa.String(16))
RUNNING = sa.literal_column(f"'{TaskState.RUNNING}'", sa.String(16))
"""For conditions: written into the statement's text. With a parameter there, a prepared statement's generic
plan could not use a partial index, and would scan the table."""

NO_FEED = sa.text("'00000000-0000-0000-0000-000000000000'")
"""For rows older than the column; their migration gave each its own."""
LANES = ("cloud.interactive", "cloud.bulk", "local.interactive", "local.bulk")

QUEUED_MAY_BE_OVER = sa.text("state = 'queued' AND deadline < 'infinity'")
"""Always so. Who asks for what is too late says it, and nobody else: the lines of a batch have one deadline, that index
is short, and statistics that lag behind took it for the one to find what is due by, at all its rows."""

LINE_STANDS = sa.text("batch_id IS NOT NULL AND NOT superseded")
LINE_SUPERSEDED = sa.text("batch_id IS NOT NULL AND superseded")
LINE_FAILED = sa.text("batch_id IS NOT NULL AND NOT superseded AND state IN ('failed', 'cancelled', 'expired')")
LINE_ENDED = sa.text("batch_id IS NOT NULL AND NOT superseded AND ended_at IS NOT NULL")
LINE_BEGUN = sa.text(
    "state = 'queued' AND batch_id IS NOT NULL AND (started_at IS NOT NULL OR attempt > 1 + refused_attempts)"
)
"""Tasks that are the lines of a batch, in the words of their partial indexes. Begun: they wait for another try."""
_OF_UPSTREAM_BATCH = sa.text("upstream_batch_id IS NOT NULL")

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True, comment="UUIDv7: sorts by the time of submission"),
    required("project_id", sa.Uuid, sa.ForeignKey("projects.id")),
    required("key_id", sa.String(64), sa.ForeignKey("api_keys.id")),
    sa.Column("batch_id", sa.Uuid, sa.ForeignKey("batches.id")),
    sa.Column("line", sa.BigInteger, comment="of its batch's input, from 1"),
    required("superseded", sa.Boolean, server_default=sa.false(), comment="its line was tried again, as another task"),
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
    sa.Column("upstream_batch_id", sa.Uuid, comment="it is, or was to its end, a line of that upstream batch"),
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
    partial("uq_tasks_project_id_request_id", "project_id", "request_id", unique=True, where="request_id IS NOT NULL"),
    partial("ix_tasks_due", "route", "lane", "feed", "not_before", where="state = 'queued'"),
    partial("ix_tasks_begun", "route", "lane", "feed", "not_before", where=LINE_BEGUN),
    partial("ix_tasks_deadline", "deadline", where=QUEUED_MAY_BE_OVER),
    partial("ix_tasks_worker_id", "worker_id", where="state = 'running'"),
    sa.Index("ix_tasks_project_id_id", "project_id", "id"),
    partial("ix_tasks_project_id_custom_id", "project_id", "custom_id", where="custom_id IS NOT NULL"),
    sa.CheckConstraint("(batch_id IS NULL) = (line IS NULL)", name="batch_has_lines"),
    partial("uq_tasks_batch_id_line", "batch_id", "line", unique=True, where=LINE_STANDS),
    partial("ix_tasks_batch_id_superseded", "batch_id", "line", where=LINE_SUPERSEDED),
    partial("uq_tasks_batch_id_custom_id", "batch_id", "custom_id", unique=True, where=LINE_STANDS),
    partial("ix_tasks_batch_id_failed", "batch_id", "line", where=LINE_FAILED),
    partial("ix_tasks_upstream_batch_id", "upstream_batch_id", "line", where=_OF_UPSTREAM_BATCH),
    partial("ix_tasks_batch_id_ended_at", "batch_id", "ended_at", "line", where=LINE_ENDED),
)

QUEUED_BY_ID = (tasks.c.state + "") == QUEUED
"""The same, as a check of rows that are found by their ids. Statistics lag behind a queue that just filled: the
planner then takes an index of the queued rows for nearly empty, and reads all of it. This hides the index."""
RUNNING_BY_ID = (tasks.c.state + "") == RUNNING
"""The same of what runs."""

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
    sa.Column("error_code", sa.String(64), comment="'erased' where an answer was"),
    sa.Column("error_message", sa.Text),
    required("erased", sa.Boolean, server_default=sa.false(), comment="its texts are gone"),
    sa.CheckConstraint("(body IS NULL) <> (error_code IS NULL)", name="result_or_error"),
    sa.CheckConstraint("NOT erased OR (body IS NULL AND error_message IS NULL)", name="erased_holds_no_text"),
)
