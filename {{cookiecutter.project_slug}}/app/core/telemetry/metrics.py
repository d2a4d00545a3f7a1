"""Metrics of the connection pools, read when OpenTelemetry collects them."""

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


# All but the last: https://opentelemetry.io/docs/specs/semconv/database/database-metrics/
INSTRUMENTS: list[tuple[str, str, str, Callable[[FairPool], Values]]] = [
    (
        "db.client.connection.count",
        "{connection}",
        "Connections that a session uses, and idle ones.",
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
        "Connections that stay open when idle: POOL_SIZE.",
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
        "Open connections beyond POOL_SIZE.",
        lambda pool: iter([({}, max(pool.overflow(), 0))]),
    ),
]


@cache
def observe_pools(provider: MeterProvider | None = None) -> None:
    """Register the instruments, once. The default is the global provider, even if set later."""
    meter = metrics.get_meter(__name__, __version__, provider)
    for name, unit, description, values in INSTRUMENTS:
        meter.create_observable_up_down_counter(
            name, [_observe(values)], unit=unit, description=description
        )


def _observe(
    values: Callable[[FairPool], Values],
) -> Callable[[CallbackOptions], list[Observation]]:
    """Return the callback of an instrument. The exporter calls it in its own thread."""

    def observe(_: CallbackOptions) -> list[Observation]:
        sums = Counter[tuple[tuple[str, str], ...]]()
        for database, read_only, pool in live_pools():
            name = f"{database} read-only" if read_only else database
            for attributes, value in values(pool):
                of_pool = {"db.client.connection.pool.name": name, "db.namespace": database}
                # A database has one pool of each kind per event loop: add them up.
                sums[tuple((of_pool | attributes).items())] += value
        return [Observation(value, dict(attributes)) for attributes, value in sums.items()]

    return observe
