"""Runs SQL in the service's environment, which has a driver.

    python benchmarks/inside/sql.py URL

Each line of input is a JSON list of statements. The output is a line of JSON with the rows of the last one.
"""

import asyncio
import json
import sys

import asyncpg


async def main(url: str) -> None:
    connection = await asyncpg.connect(url)
    for line in sys.stdin:
        rows: list[asyncpg.Record] = []
        for statement in json.loads(line):
            rows = await connection.fetch(statement)
        print(json.dumps([list(row) for row in rows], default=str), flush=True)
    await connection.close()


try:
    asyncio.run(main(*sys.argv[1:]))
except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
    sys.exit(f"PostgreSQL: {error}")
