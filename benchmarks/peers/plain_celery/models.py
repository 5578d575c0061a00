"""The table, and the engine that each process has for itself."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

engine = sa.create_engine(os.environ["DATABASE_URL"])
new_session = sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """Of every table."""


class Task(Base):
    """A prompt, and what became of it. `status`: PENDING, RUNNING, SUCCESS or FAIL."""

    __tablename__ = "tasks"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    status: Mapped[str] = mapped_column(sa.String(16), default="PENDING")
    model: Mapped[str] = mapped_column(sa.String(64))
    messages: Mapped[list[dict[str, Any]]] = mapped_column(sa.JSON)
    options: Mapped[dict[str, Any]] = mapped_column(sa.JSON)
    answer: Mapped[str | None] = mapped_column(sa.Text)
    error: Mapped[str | None] = mapped_column(sa.Text)
    prompt_tokens: Mapped[int | None]
    completion_tokens: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), default=lambda: datetime.now(UTC))
    ended_at: Mapped[datetime | None] = mapped_column(sa.DateTime(timezone=True))
