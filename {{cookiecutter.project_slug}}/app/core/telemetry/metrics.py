"""What OpenTelemetry is told of the pools, whenever it asks."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from app import __version__
from app.core.database.pool import FairPool
from app.core.database.registry import live_pools

Values = Iterator[tuple[dict[str, str], int]]


def _count(pool: FairPool) -> Values:
    yield {"db.client.connection.state": "used"}, pool.checkedout()
    yield {"db.client.connection.state": "idle"}, pool.checkedin()


# https://opentelemetry.io/docs/specs/semconv/database/database-metrics/ knows all but the last.
INSTRUMENTS: list[tuple[str, str, str, Callable[[FairPool], Values]]] = [
    (
        "db.client.connection.count",
        "{connection}",
        "Connections that are used by a session, and that are idle.",
        _count,
    ),
    (
        "db.client.connection.max",
        "{connection}",
        "Connections that may be open: POOL_SIZE + MAX_OVERFLOW.",
        lambda pool: iter([({}, pool.limit)]),
    ),
    (
        "db.client.connection.idle.max",
        "{connection}",
        "Connections that are kept open: POOL_SIZE.",
        lambda pool: iter([({}, pool.size())]),
    ),
    (
        "db.client.connection.pending_requests",
        "{request}",
        "Sessions that wait for a connection.",
        lambda pool: iter([({}, pool.waiting)]),
    ),
    (
        "sqlalchemy.pool.overflow",
        "{connection}",
        "Connections that are open beyond POOL_SIZE.",
        lambda pool: iter([({}, max(pool.overflow(), 0))]),
    ),
]


@cache
def observe_pools(provider: MeterProvider | None = None) -> None:
    """Tell the provider of the pools, once; without one the global provider, whenever it is set."""
    meter = metrics.get_meter(__name__, __version__, provider)
    for name, unit, description, values in INSTRUMENTS:
        meter.create_observable_up_down_counter(
            name, [_observe(values)], unit=unit, description=description
        )


def _observe(
    values: Callable[[FairPool], Values],
) -> Callable[[CallbackOptions], list[Observation]]:
    """Return what an exporter calls, in a thread of its own."""

    def observe(_: CallbackOptions) -> list[Observation]:
        sums = Counter[tuple[tuple[str, str], ...]]()
        for database, read_only, pool in live_pools():
            name = f"{database} read-only" if read_only else database
            for attributes, value in values(pool):
                of_pool = {"db.client.connection.pool.name": name, "db.namespace": database}
                # A database has several pools of the same kind where it has several event loops.
                sums[tuple((of_pool | attributes).items())] += value
        return [Observation(value, dict(attributes)) for attributes, value in sums.items()]

    return observe
