"""One folder a dialect: body in, TaskRequest out; task out, body back; its one table from error to answer."""
