"""The database's history, one file a step. Run by `tollgate migrate`, or `alembic upgrade head`."""
