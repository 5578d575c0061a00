"""What passes between gateway and worker: the Celery app, its messages, and the event bus.

All of it is hints. Losing any of it costs seconds; the store holds what is true.
"""
