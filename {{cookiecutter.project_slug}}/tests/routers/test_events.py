"""/analytics/events: batches and the export."""

import json
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import AsyncClient

from app.routers import API_PREFIX

EVENTS = f"{API_PREFIX}/analytics/events"
GOOD = {"name": "good"}


async def test_batch_is_stored_and_read_in_order(client: AsyncClient) -> None:
    user_id = str(uuid4())
    batch: list[dict[str, Any]] = [
        {"name": "opened", "user_id": user_id, "properties": {"page": ["/", 1, None, 0.5]}},
        {"name": "closed", "occurred_at": "2026-01-01T12:00:00+02:00"},
    ]

    response = await client.post(EVENTS, json=batch)
    opened, closed = (await client.get(EVENTS)).json()["items"]

    assert (201, {"created": 2}) == (response.status_code, response.json())
    assert (user_id, batch[0]["properties"]) == (opened["user_id"], opened["properties"])
    assert datetime.fromisoformat(opened["occurred_at"]).utcoffset() is not None
    assert (None, {}) == (closed["user_id"], closed["properties"])
    assert closed["occurred_at"] == "2026-01-01T10:00:00Z"


async def test_export_has_one_line_per_event(client: AsyncClient) -> None:
    await client.post(
        EVENTS, json=[{"name": f"é{n}", "properties": {"n": n}} for n in range(2_500)]
    )

    response = await client.get(f"{EVENTS}/export")
    lines = [json.loads(line) for line in response.text.splitlines()]

    assert "application/x-ndjson" == response.headers["content-type"]
    assert 2_500 == len(lines)
    assert (await client.get(EVENTS, params={"limit": 1000})).json()["items"] == lines[:1000]


@pytest.mark.parametrize(
    "batch",
    [
        [],
        [GOOD, {}],
        [GOOD, GOOD | {"user_id": "ada"}],
        [GOOD, GOOD | {"properties": []}],
        [GOOD, GOOD | {"occurred_at": "2026-01-01T12:00:00"}],  # no time zone
        [GOOD, GOOD | {"occurred_at": "0001-01-01T00:00:00+14:00"}],  # before the year 1 in UTC
    ],
)
async def test_invalid_batch_stores_nothing(client: AsyncClient, batch: Any) -> None:
    response = await client.post(EVENTS, json=batch)

    assert response.status_code == 422
    assert (await client.get(EVENTS)).json() == {"items": [], "next": None}
