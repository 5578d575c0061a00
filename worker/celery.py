"""`celery -A worker worker`: the one module that reads settings at import, because Celery asks for an app there."""

from __future__ import annotations

from tollgate import configuration, settings
from worker.process import create_worker_app

_settings = settings.load()
app = create_worker_app(_settings, configuration.load_catalog(_settings))
