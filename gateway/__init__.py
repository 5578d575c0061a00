"""HTTP: dialects, authentication, admission, intake, waiting. `uvicorn --factory gateway:create_app`."""

from gateway.app import create_app

__all__ = ["create_app"]
