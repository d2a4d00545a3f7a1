"""Events: large batches and exports, odd JSON, an export whose client or database goes away."""

import tracemalloc
from typing import Any

import pytest
from httpx2 import AsyncClient

from app.services.event import export_events
from tests.inspection import checked_out
from tests.support import leaving, problem, set_databases, until

EVENTS = "/analytics/events"


async def test_ten_thousand_events_fit_into_a_batch_and_no_more(client: AsyncClient) -> None:
    batch = [{"name": "seen"}] * 10_000

    assert (await client.post(EVENTS, json=batch)).json() == {"created": 10_000}
    assert (await client.post(EVENTS, json=[*batch, batch[0]])).status_code == 422


async def test_event_is_accepted_only_if_it_can_be_shown(client: AsyncClient) -> None:
    def nested(depth: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for _ in range(depth):
            value = {"in": value}
        return value

    taken = [
        (await client.post(EVENTS, json=[{"name": "x", "properties": nested(depth)}])).is_success
        for depth in range(200, 260)
    ]

    assert taken[0]
    assert not taken[-1]
    assert (await client.get(EVENTS)).is_success
    assert sum(taken) == len((await client.get(f"{EVENTS}/export")).text.splitlines())


async def test_export_of_nothing_is_empty(client: AsyncClient) -> None:
    answer = await client.get(f"{EVENTS}/export")

    assert (200, b"") == (answer.status_code, answer.content)


async def test_export_from_a_database_that_cannot_be_reached_is_503(
    client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    set_databases(environment, {"analytics": "postgresql://u:hidden@127.0.0.1:1/d"})

    answer = await client.get(f"{EVENTS}/export")

    assert (503, "1") == (problem(answer)["status"], answer.headers["retry-after"])


async def test_export_ends_with_its_client(server: AsyncClient) -> None:
    for _ in range(3):
        await server.post(EVENTS, json=[{"name": "seen", "properties": {"x": "y" * 500}}] * 10_000)

    async with leaving(server, "GET", f"{EVENTS}/export") as reader:
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        assert checked_out()
    await until(lambda: not checked_out())


async def test_memory_of_an_export_does_not_grow_with_its_rows(client: AsyncClient) -> None:
    async def most() -> int:
        tracemalloc.reset_peak()
        async for _ in export_events():
            pass
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        await client.post(EVENTS, json=[{"name": "seen"}] * 2_000)
        await most()  # what is made once
        few = await most()
        for _ in range(2):
            await client.post(EVENTS, json=[{"name": "seen"}] * 10_000)
        many = await most()
    finally:
        tracemalloc.stop()

    assert many < few * 1.5


async def test_number_that_json_does_not_know_is_refused(client: AsyncClient) -> None:
    content = b'[{"name": "x", "properties": {"n": NaN}}]'
    headers = {"content-type": "application/json"}

    assert (await client.post(EVENTS, content=content, headers=headers)).status_code == 422


@pytest.mark.parametrize("half", [r'{"\ud800": 1}', r'{"n": ["\udfff"]}'])
async def test_half_of_a_surrogate_pair_is_refused(client: AsyncClient, half: str) -> None:
    content = '[{"name": "x", "properties": ' + half + "}]"
    headers = {"content-type": "application/json"}

    assert (await client.post(EVENTS, content=content, headers=headers)).status_code == 422
