"""Checks that every contender returns the same responses as the service before it is measured."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.environment import user_id
from benchmarks.processes import Serving

SECONDS_TO_COMMIT = 5.0  # for contenders that commit after the response


def check_responses(server: Serving) -> None:
    """Raise `RuntimeError` if a response differs from the service's."""
    first = [_user(number) for number in range(1, 51)]
    new = json.dumps({"name": "Ada", "email": f"posted-{server.port}@example.com"}).encode()

    status, body = server.get(f"/users/{first[-1]['id']}")
    _expect("GET of a user", (status, _read(json.loads(body))), (200, first[-1]))

    status, body = server.get("/users?limit=50")
    page = json.loads(body)
    _expect("GET of users", (status, list(map(_read, page["items"]))), (200, first))
    _expect("the keys of a page", page.keys(), {"items", "next"})

    status, body = server.request("POST", "/users", new)
    posted = json.loads(body)
    _expect("POST of a user", (status, posted.keys()), (201, first[0].keys()))
    _expect("the version of a new user", posted["version"], 1)
    _expect("GET of a new user", _get_when_committed(server, posted["id"]), (200, body))


def _get_when_committed(server: Serving, user: str) -> tuple[int, bytes]:
    deadline = time.monotonic() + SECONDS_TO_COMMIT
    while True:
        response = server.get(f"/users/{user}")
        if response[0] != 404 or time.monotonic() > deadline:
            return response


def _expect(name: str, got: Any, expected: Any) -> None:
    if got != expected:
        raise RuntimeError(f"{name} is {str(got)[:100]}, not {str(expected)[:100]}")


def _user(number: int) -> dict[str, Any]:
    return {
        "id": user_id(number),
        "name": f"User {number}",
        "email": f"user-{number}@example.com",
        "version": 1,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
    }


def _read(user: dict[str, Any]) -> dict[str, Any]:
    return user | {"created_at": datetime.fromisoformat(user["created_at"])}
