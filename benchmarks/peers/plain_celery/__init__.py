"""FastAPI, Celery and ZhipuAI's SDK, put together as their tutorials do. Knows nothing of Tollgate."""
