"""Runs tasks: claim, call an upstream, settle. Never imports FastAPI.

`celery -A worker worker` finds its app in `worker.celery`, the one module that reads settings at import.
"""
