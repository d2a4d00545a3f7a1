"""Events: large batches and exports, odd JSON, an export whose client or database goes away."""

import tracemalloc
from typing import Any

import pytest
from httpx2 import AsyncClient

from app.routers import API_PREFIX
from app.services.event import export_events
from tests.inspection import checked_out
from tests.support import disconnecting, problem, set_databases, until

EVENTS = f"{API_PREFIX}/analytics/events"


async def test_batch_has_at_most_ten_thousand_events(client: AsyncClient) -> None:
    batch = [{"name": "seen"}] * 10_000

    assert (await client.post(EVENTS, json=batch)).json() == {"created": 10_000}
    assert (await client.post(EVENTS, json=[*batch, batch[0]])).status_code == 422


async def test_event_is_accepted_only_if_a_response_can_contain_it(client: AsyncClient) -> None:
    def nested(depth: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for _ in range(depth):
            value = {"in": value}
        return value

    accepted = [
        (await client.post(EVENTS, json=[{"name": "x", "properties": nested(depth)}])).is_success
        for depth in range(200, 260)
    ]

    assert accepted[0]
    assert not accepted[-1]
    assert (await client.get(EVENTS)).is_success
    assert sum(accepted) == len((await client.get(f"{EVENTS}/export")).text.splitlines())


async def test_pages_show_every_event_once(client: AsyncClient) -> None:
    await client.post(EVENTS, json=[{"name": str(n)} for n in range(5)])

    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await client.get(EVENTS, params={"limit": "2"} | after)).json()
        seen += [event["name"] for event in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}

    assert seen == list("01234")


async def test_export_without_events_is_empty(client: AsyncClient) -> None:
    response = await client.get(f"{EVENTS}/export")

    assert (200, b"") == (response.status_code, response.content)


async def test_export_is_compressed_if_the_client_accepts_gzip(server: AsyncClient) -> None:
    await server.post(EVENTS, json=[{"name": "seen"}] * 100)

    plain = await server.get(f"{EVENTS}/export", headers={"Accept-Encoding": "identity"})
    compressed = await server.get(f"{EVENTS}/export", headers={"Accept-Encoding": "gzip"})

    assert "gzip" == compressed.headers["content-encoding"]
    assert plain.content == compressed.content


async def test_export_is_503_if_the_database_is_unreachable(
    client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    set_databases(environment, {"analytics": "postgresql://u:hidden@127.0.0.1:1/d"})

    response = await client.get(f"{EVENTS}/export")

    assert (503, "1") == (problem(response)["status"], response.headers["retry-after"])


async def test_export_returns_its_connection_when_the_client_disconnects(
    server: AsyncClient,
) -> None:
    for _ in range(3):
        await server.post(EVENTS, json=[{"name": "seen", "properties": {"x": "y" * 500}}] * 10_000)

    async with disconnecting(server, "GET", f"{EVENTS}/export") as reader:
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        assert checked_out()
    await until(lambda: not checked_out())


async def test_memory_of_an_export_does_not_grow_with_the_number_of_rows(
    client: AsyncClient,
) -> None:
    async def peak() -> int:
        tracemalloc.start()
        try:
            async for _ in export_events():
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    await client.post(EVENTS, json=[{"name": "seen"}] * 2_000)
    await peak()  # caches are filled once
    few = await peak()
    await client.post(EVENTS, json=[{"name": "seen"}] * 10_000)
    many = await peak()

    assert many < few * 1.5


async def test_nan_is_refused(client: AsyncClient) -> None:
    content = b'[{"name": "x", "properties": {"n": NaN}}]'
    headers = {"content-type": "application/json"}

    assert (await client.post(EVENTS, content=content, headers=headers)).status_code == 422


@pytest.mark.parametrize("half", [r'{"\ud800": 1}', r'{"n": ["\udfff"]}'])
async def test_unpaired_surrogate_is_refused(client: AsyncClient, half: str) -> None:
    content = '[{"name": "x", "properties": ' + half + "}]"
    headers = {"content-type": "application/json"}

    assert (await client.post(EVENTS, content=content, headers=headers)).status_code == 422


async def test_head_of_an_export_ends_it(server: AsyncClient) -> None:
    response = await server.head(f"{EVENTS}/export")

    assert (200, b"") == (response.status_code, response.content)
