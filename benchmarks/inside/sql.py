"""SQL, run in the service's environment, which has a driver: a line of JSON in, a line out.

    python benchmarks/inside/sql.py URL

reads lists of statements, and answers with the rows of the last one of each.
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
