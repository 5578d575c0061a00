"""The Celery application and its one task."""

from __future__ import annotations

import functools
import os
import uuid
from datetime import UTC, datetime

from celery import Celery
from celery.signals import worker_process_init
from zhipuai import ZhipuAI
from zhipuai.core import ZhipuAIError

from benchmarks.peers.plain_celery.models import Task, engine, new_session

celery = Celery("plain_celery", broker=os.environ["REDIS_URL"])
celery.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@worker_process_init.connect
def forget_parents_connections(**_: object) -> None:
    """https://docs.sqlalchemy.org/en/20/core/pooling.html#using-connection-pools-with-multiprocessing-or-os-fork"""
    engine.dispose(close=False)


@functools.cache
def client() -> ZhipuAI:
    """One a process, so that its connections are kept alive. It repeats a refused or broken call three times."""
    return ZhipuAI(api_key=os.environ["ZHIPUAI_API_KEY"], base_url=os.environ["ZHIPUAI_BASE_URL"])


@celery.task(name="run", ignore_result=True)
def run(task_id: str) -> None:
    """One commit a step: whoever asks for the task sees how far it is."""
    with new_session() as session:
        task = session.get_one(Task, uuid.UUID(task_id))
        task.status = "RUNNING"
        session.commit()
        try:
            done = client().chat.completions.create(model=task.model, messages=task.messages, **task.options)
        except ZhipuAIError as error:
            task.status, task.error = "FAIL", str(error)
        else:
            task.status, task.answer = "SUCCESS", done.choices[0].message.content
            task.prompt_tokens, task.completion_tokens = done.usage.prompt_tokens, done.usage.completion_tokens
        task.ended_at = datetime.now(UTC)
        session.commit()
