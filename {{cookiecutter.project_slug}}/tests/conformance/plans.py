"""Query plans of PostgreSQL and SQLite."""

from typing import Any

from sqlalchemy import Select, text
from sqlalchemy.ext.asyncio import AsyncSession


async def plan(
    session: AsyncSession, statement: Select[*tuple[Any, ...]], **values: Any
) -> list[dict[str, Any]]:
    """Run a statement on PostgreSQL and return the nodes of its plan, with the rows that each read."""
    await session.execute(text("ANALYZE"))
    compiled = statement.compile(dialect=session.get_bind().dialect)
    parameters = compiled.construct_params(values)
    ordered = tuple(parameters[name] for name in compiled.positiontup or ())
    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}"
    result = await (await session.connection()).exec_driver_sql(explain, ordered)
    nodes = [result.scalar_one()[0]["Plan"]]
    for node in nodes:
        nodes += node.get("Plans", [])
    return nodes


async def steps(
    session: AsyncSession, statement: Select[*tuple[Any, ...]], **values: Any
) -> list[str]:
    """Return the steps of SQLite's plan for a statement, without running it."""
    await session.execute(text("ANALYZE"))
    with_values = statement.params(values).compile(
        dialect=session.get_bind().dialect, compile_kwargs={"literal_binds": True}
    )
    return [row.detail for row in await session.execute(text(f"EXPLAIN QUERY PLAN {with_values}"))]
