"""Measures all servers in rounds, and compares them within each round.

If something slows the machine down for a while, it slows down all servers of that round.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from statistics import median

from benchmarks.environment import MissingError, Sql
from benchmarks.load import OPERATIONS, Result, load
from benchmarks.processes import Serving

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))

CLEAN_UP = ("DELETE FROM users WHERE email LIKE 'posted-%'", "VACUUM ANALYZE users")
FIGURES = ("requests_per_second", "cpu_seconds_per_request", "p99")

Start = Callable[[], AbstractContextManager[Serving]]
Key = tuple[str, str, int]  # contender, operation, connections
Results = dict[Key, list[Result]]


class Running:
    """A server that can be restarted."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._stack = ExitStack()
        self.server = self._stack.enter_context(start())

    def restart(self) -> None:
        self.server.process.kill()
        self.close()
        self.server = self._stack.enter_context(self._start())

    def close(self) -> None:
        self._stack.close()


def measure(  # noqa: PLR0913, PLR0917
    starts: Mapping[str, Start],
    check: Callable[[Serving], None],
    run_sql: Sql,
    operations: Collection[str],
    levels: Sequence[int],
    failed: dict[str, str],
) -> Results:
    """Return the results of each round. Add the servers that fail to `failed`, with the reason.

    A stalled server is restarted.
    """
    results: Results = {}
    with ExitStack() as stack:
        running: dict[str, Running] = {}
        for name, start in starts.items():
            try:
                running[name] = stack.enter_context(closing(Running(start)))
                check(running[name].server)
            except RuntimeError as error:
                failed[name] = f"{error} (see {name}.log)"
                running.pop(name, None)
        run_sql(*CLEAN_UP)
        for number in range(ROUNDS + 1):  # the first round is a warm-up
            seconds = SECONDS if number else 1
            for operation in operations:
                print(f"round {number} of {ROUNDS}: {OPERATIONS[operation]}", flush=True)
                for level in levels if number else levels[-1:]:
                    for name in list(running):
                        try:
                            result = load(running[name].server, operation, level, seconds)
                            if result.stalled:
                                running[name].restart()
                        except (OSError, RuntimeError):
                            failed[name] = f"exited at {OPERATIONS[operation]} (see {name}.log)"
                            del running[name]
                            continue
                        if number:
                            results.setdefault((name, operation, level), []).append(result)
                        if operation == "post":
                            run_sql(*CLEAN_UP)
    return results


def ratio(results: Results, key: Key, figure: str) -> float | None:
    """Return the ratio to `bare`: of the CPU time in the lowest rounds, otherwise the median of the rounds."""
    return compared(results.get(key, []), results.get(("bare", *key[1:]), []), figure)


def compared(mine: Sequence[Result], base: Sequence[Result], figure: str) -> float | None:
    """Return the ratio of the same rounds of two loads, as `ratio` does."""
    pairs = [
        (getattr(a, figure), getattr(b, figure))
        for a, b in zip(mine, base, strict=False)
        if b.requests and (a.requests or figure == "requests_per_second")
    ]
    if not pairs:
        return None
    if figure == "cpu_seconds_per_request":  # another process can only increase it
        lowest = [min(values) for values in zip(*pairs, strict=True)]
        return float(lowest[0] / lowest[1])
    return float(median(a / b for a, b in pairs))


def require_connections(run_sql: Sql, number: int) -> None:
    """Raise `MissingError` if max_connections is too low for the pools of this number of servers."""
    allowed, needed = int(run_sql("SHOW max_connections")[0][0]), 20 * number + 50
    if allowed < needed:
        raise MissingError(
            f"PostgreSQL allows {allowed} connections, but {number} servers at once need {needed}: "
            "raise max_connections, or compare fewer with BENCH_ONLY"
        )
