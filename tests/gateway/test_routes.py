"""The order in which routes are tried: it decides how soon one is found, never which."""

from __future__ import annotations

import re

from starlette.routing import Match, Route

from gateway import create_app
from gateway.app import OFTEN

DOCS = {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}


def all_routes() -> list[Route]:
    return [route for route in create_app().router.routes if isinstance(route, Route) and route.path not in DOCS]


def test_paths_of_most_requests_come_first() -> None:
    often = [route.path in OFTEN for route in all_routes()]
    assert often == sorted(often, reverse=True)
    assert {route.path for route in all_routes()} > OFTEN


def test_no_route_hides_another() -> None:
    routes = all_routes()
    assert len(routes) > 50
    for route in routes:
        for method in route.methods or ():
            path = re.sub(r"\{[^}]*\}", "019ad000-0000-7000-8000-000000000000", route.path)
            scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
            found = next(one for one in routes if one.matches(dict(scope))[0] is Match.FULL)
            assert (found.path, found.methods) == (route.path, route.methods)
