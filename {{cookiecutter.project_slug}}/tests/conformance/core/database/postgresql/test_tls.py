"""TLS and passwords: every parameter has its effect, and hosted providers' URLs lead to a working one."""

import asyncio
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.core.config import get_settings
from app.core.db import ConfigurationError, dispose_engines, session_scope
from tests.conformance.harness.tls import TlsServer, tls_server
from tests.conformance.inspection import execute_script
from tests.processes import DATABASES, VARIABLES, run, serving
from tests.support import USERS, set_databases

# Rows that the queries of a URL select from STATE, or a part of the error.
STATE = text("SELECT version, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
PLAIN, TLS, OLDER, MUTUAL = (
    (None, None),
    ("TLSv1.3", None),
    ("TLSv1.2", None),
    ("TLSv1.3", "/CN=with_certificate"),
)
ROLES = "CREATE ROLE with_certificate LOGIN; CREATE ROLE with_password LOGIN PASSWORD 'secret'"
CERTIFICATE = "sslcert={folder}/client.crt&sslkey={folder}/client.key"
CA = "sslrootcert={folder}/ca.crt"
UNKNOWN_CA = "certificate verify failed"


class Case(NamedTuple):
    query: str
    expected: tuple[str | None, str | None] | str
    host: str = "localhost"
    user: str = "postgres"


CASES = [
    Case("sslmode=disable", PLAIN),
    Case("sslmode=allow", PLAIN),
    Case("sslmode=prefer", TLS),
    Case("sslmode=require", TLS),
    Case("ssl=require", TLS),
    Case(f"sslmode=verify-ca&{CA}", TLS, host="127.0.0.1"),
    Case(f"sslmode=verify-full&{CA}", TLS),
    Case(f"sslmode=verify-full&{CA}", "IP address mismatch", host="127.0.0.1"),
    Case("sslmode=require&sslrootcert={folder}/other.crt", UNKNOWN_CA),
    Case(f"sslmode=verify-full&{CA}" + "&sslcrl={folder}/empty.crl", TLS),
    Case(f"sslmode=verify-full&{CA}" + "&sslcrl={folder}/revoked.crl", "certificate revoked"),
    Case("sslmode=require&ssl_max_protocol_version=TLSv1.2", OLDER),
    Case(
        "sslmode=require&ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
        "NO_PROTOCOLS_AVAILABLE",
    ),
    Case(f"sslmode=require&{CERTIFICATE}", MUTUAL, user="with_certificate"),
    Case("sslmode=require", "requires a valid client certificate", user="with_certificate"),
    Case("passfile={folder}/passwords", TLS, user="with_password"),
    Case("sslmode=require", "password", user="with_password"),
]

# SSL_CERT_FILE is where OpenSSL looks for the CAs of the system.
WITH_SYSTEM_CAS = [
    Case("sslmode=verify-full", TLS),
    Case("sslmode=verify-full", "IP address mismatch", host="127.0.0.1"),
    Case("sslrootcert=system", TLS),
    Case("sslmode=verify-full&sslrootcert=system", TLS),
    Case("sslmode=verify-full&sslcrl={folder}/empty.crl", TLS),
    Case("sslmode=verify-full&sslcrl={folder}/revoked.crl", "certificate revoked"),
    Case("sslmode=verify-full&ssl_max_protocol_version=TLSv1.2", OLDER),
    Case(
        "sslrootcert=system&ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
        "NO_PROTOCOLS_AVAILABLE",
    ),
    Case(f"sslmode=verify-full&{CERTIFICATE}", MUTUAL, user="with_certificate"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[TlsServer]:
    with tls_server() as server:
        asyncio.run(execute_script(server.url.render_as_string(), ROLES))
        yield server


@pytest.fixture
def home(environment: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home folder, which has no certificates."""
    environment.setenv("HOME", str(tmp_path))
    return tmp_path


def url_of(server: TlsServer, case: Case) -> str:
    url = server.url.set(host=case.host, username=case.user)
    return f"{url.render_as_string()}?{case.query.format(folder=server.folder)}"


async def state(
    server: TlsServer, environment: pytest.MonkeyPatch, case: Case
) -> tuple[str | None, str | None] | str:
    """Return what the server says about the connection, or the error."""
    set_databases(environment, {"primary": url_of(server, case)})
    try:
        async with session_scope() as session:
            version, subject = (await session.execute(STATE)).one()
            return version, subject
    except OperationalError as error:
        return str(error.orig)
    finally:
        await dispose_engines()


def is_expected(found: object, expected: object) -> bool:
    return found == expected or (isinstance(expected, str) and expected in str(found))


async def test_every_parameter_has_its_effect(
    server: TlsServer, environment: pytest.MonkeyPatch, home: Path
) -> None:
    found = [(case, await state(server, environment, case)) for case in CASES]

    assert [] == [(case, state) for case, state in found if not is_expected(state, case.expected)]


async def test_verify_full_without_a_certificate_uses_the_cas_of_the_system(
    server: TlsServer, environment: pytest.MonkeyPatch, home: Path
) -> None:
    full = Case("sslmode=verify-full", TLS)
    assert UNKNOWN_CA in await state(server, environment, full)

    environment.setenv("SSL_CERT_FILE", str(server.folder / "ca.crt"))
    found = [(case, await state(server, environment, case)) for case in WITH_SYSTEM_CAS]

    assert [] == [(case, state) for case, state in found if not is_expected(state, case.expected)]


async def test_certificate_in_the_home_folder_takes_precedence_over_the_system(
    server: TlsServer, environment: pytest.MonkeyPatch, home: Path
) -> None:
    (home / ".postgresql").mkdir()
    shutil.copy(server.folder / "ca.crt", home / ".postgresql" / "root.crt")

    assert await state(server, environment, Case("sslmode=verify-full", TLS)) == TLS
    assert await state(server, environment, Case("sslmode=verify-ca", TLS)) == TLS
    assert UNKNOWN_CA in await state(server, environment, Case("sslrootcert=system", TLS))


REFUSED = {
    f"sslmode=verify-full&{name}={path}": (
        rf"{name}='{path}' cannot be used \({reason}.*\): write the path of a PEM file that the service can read"
    )
    for name in ("sslrootcert", "sslcrl", "sslcert", "sslkey")
    for path, reason in {"/nowhere.pem": "No such file or directory", "/": "Is a directory"}.items()
} | {
    "sslmode=verify-full&sslrootcert={folder}/ca.key": r"sslrootcert='.+/ca\.key' cannot be used",
    "sslmode=require&sslcert={folder}/client.crt&sslkey={folder}/ca.key": (
        r"sslkey='.+/ca\.key' cannot be used \(\[X509: KEY_VALUES_MISMATCH"
    ),
    "sslmode=verify-ca": "add sslrootcert=/path/to/ca.crt, or write sslmode=verify-full",
    "sslmode=require&sslrootcert=system": "sslrootcert=system needs sslmode=verify-full, and not",
    "sslnegotiation=direct": "sslnegotiation=direct needs sslmode=require or sslmode=verify-full",
    "direct_tls=true&sslmode=prefer": "sslnegotiation=direct needs sslmode=require",
}


@pytest.mark.parametrize("query", REFUSED)
def test_url_that_can_never_connect_is_refused_at_the_start(
    server: TlsServer, environment: pytest.MonkeyPatch, home: Path, query: str
) -> None:
    set_databases(environment, {"primary": url_of(server, Case(query, ""))})

    with pytest.raises(ConfigurationError, match=REFUSED[query]) as error:
        get_settings()

    assert str(error.value).startswith("DATABASES__PRIMARY__DATABASE_URL: ")
    assert "\n" not in str(error.value)


def test_advice_for_a_providers_url_leads_to_a_service_that_is_ready(
    server: TlsServer, tmp_path: Path
) -> None:
    """This is the URL that Neon shows. Its refusal names the URL that works."""
    only = {
        f"DATABASES__{name}__DATABASE_URL".upper(): f"sqlite:///{name}.db" for name in DATABASES
    }
    variables = VARIABLES | only | {"HOME": str(tmp_path)}

    def with_query(query: str) -> dict[str, str]:
        url = url_of(server, Case(query, ""))
        return variables | {"DATABASES__PRIMARY__DATABASE_URL": url}

    wrong = with_query("sslmode=require&channel_binding=require")
    refusal = run("migrate", variables=wrong, folder=tmp_path, exit_code=1).stderr
    [advice] = re.findall(r"write (sslmode=\S+),", refusal)
    advised = with_query(advice)
    untrusted = run("migrate", variables=advised, folder=tmp_path, exit_code=1).stderr
    advised["SSL_CERT_FILE"] = str(server.folder / "ca.crt")
    run("migrate", variables=advised, folder=tmp_path)
    with serving(variables=advised, folder=tmp_path) as served:
        responses = [httpx2.get(f"{served.url}{path}") for path in ("/health/ready", USERS)]

    assert refusal.startswith("error: DATABASES__PRIMARY__DATABASE_URL: channel_binding='require'")
    assert untrusted.startswith("error: the database 'primary' cannot be used: ")
    assert UNKNOWN_CA in untrusted
    assert [200, 200] == [response.status_code for response in responses]


def test_wrong_configuration_of_asyncpg_is_no_failed_statement_and_no_error_of_the_service(
    server: TlsServer, tmp_path: Path
) -> None:
    """libpq's variables are not checked at the start."""
    variables = VARIABLES | {"HOME": str(tmp_path), "PGSSLMODE": "verify-full"}
    variables |= {"DATABASE_URL": server.url.render_as_string()}
    failed = run("migrate", variables=variables, folder=tmp_path, exit_code=1).stderr
    with serving(variables=variables, folder=tmp_path) as served:
        responses = [httpx2.get(f"{served.url}{path}") for path in ("/health/primary", USERS)]

    assert failed.startswith("error: the database 'primary' cannot be used: root certificate file")
    assert [503, 503] == [response.status_code for response in responses]
