"""/analytics/report: one request that reads both databases."""

from httpx2 import AsyncClient

from app.routers import API_PREFIX
from tests.support import USERS, user_values


async def test_report_reads_both_databases_in_one_request(client: AsyncClient) -> None:
    ada = (await client.post(USERS, json=user_values())).json()
    await client.post(
        f"{API_PREFIX}/analytics/events", json=[{"name": "seen", "user_id": ada["id"]}] * 3
    )

    response = await client.get(f"{API_PREFIX}/analytics/report")

    assert response.json() == {"items": [ada | {"events": 3}], "next": None}
