"""The HTTP interface: submit a task, ask for it."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.orm import Session

from benchmarks.peers.plain_celery.models import Base, Task, engine, new_session
from benchmarks.peers.plain_celery.tasks import run


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    Base.metadata.create_all(engine)
    yield


app = FastAPI(lifespan=lifespan)


def get_session() -> Iterator[Session]:
    with new_session() as session:
        yield session


InSession = Annotated[Session, Depends(get_session)]


class TaskIn(BaseModel):
    model: str
    messages: list[dict[str, Any]]
    temperature: float | None = None
    max_tokens: int | None = None


@app.post("/tasks", status_code=202)
def submit(body: TaskIn, session: InSession) -> dict[str, str]:
    options = body.model_dump(include={"temperature", "max_tokens"}, exclude_none=True)
    task = Task(model=body.model, messages=body.messages, options=options)
    session.add(task)
    session.commit()
    run.delay(str(task.id))
    return {"id": str(task.id), "status": task.status}


@app.get("/tasks/{task_id}")
def get(task_id: uuid.UUID, session: InSession) -> dict[str, Any]:
    task = session.get(Task, task_id)
    if task is None:
        raise HTTPException(404, "no such task")
    usage = {"prompt_tokens": task.prompt_tokens, "completion_tokens": task.completion_tokens}
    return {"id": str(task.id), "status": task.status, "answer": task.answer, "error": task.error, "usage": usage}
