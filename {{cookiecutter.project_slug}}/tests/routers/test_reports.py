"""/analytics/report: one request that reads both databases."""

from httpx2 import AsyncClient


async def test_report_reads_both_databases_in_one_request(client: AsyncClient) -> None:
    ada = (await client.post("/users", json={"name": "Ada", "email": "ada@example.com"})).json()
    await client.post("/analytics/events", json=[{"name": "seen", "user_id": ada["id"]}] * 3)

    response = await client.get("/analytics/report")

    assert response.json() == {"items": [ada | {"events": 3}], "next": None}
