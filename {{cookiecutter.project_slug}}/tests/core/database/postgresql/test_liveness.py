"""The pool replaces connections that the server has closed, and keeps those that respond."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest
from sqlalchemy import text

from app.core.db import session_scope
from tests.inspection import fetch, kill, pid

pytestmark = pytest.mark.postgresql


def while_the_loop_stands_still(work: Coroutine[Any, Any, object]) -> None:
    """Run the work in another thread: input for the connections of this loop stays unread."""
    thread = threading.Thread(target=asyncio.run, args=[work])
    thread.start()
    thread.join()


@pytest.mark.parametrize("read_only", [False, True])
async def test_connection_that_the_server_has_closed_is_replaced(
    single_connection: None, read_only: bool
) -> None:
    async with session_scope(read_only=read_only) as session:
        before = await pid(session)
    await kill(before)

    async with session_scope(read_only=read_only) as session:
        assert await pid(session) != before


async def test_connection_that_responds_to_the_ping_is_used_again(single_connection: None) -> None:
    """A notification is unread input, as the end of a connection is: a ping tells them apart."""
    async with session_scope() as session:
        before = await pid(session)
        await session.execute(text("LISTEN news"))
    while_the_loop_stands_still(fetch("NOTIFY news"))

    async with session_scope() as session:
        assert await pid(session) == before
