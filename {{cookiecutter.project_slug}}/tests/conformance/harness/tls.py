"""The process that runs a PostgreSQL server with TLS for a test, and its certificates; see keeper.py.

    python -m tests.conformance.harness.tls

The binaries in the wheel have no OpenSSL, so these are the ones of the operating system. At the end
of the input, the process stops and removes the server.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import pytest
from sqlalchemy import URL, make_url

from tests.harness.launch import launch
from tests.harness.server import UnavailableError, send
from tests.harness.wheel import kill

SECONDS_TO_STOP = 60.0

SIGNED = {  # by the CA "ca"; there is another CA
    "server": "/CN=localhost",
    "client": "/CN=with_certificate",
}

# Two users authenticate by certificate and by password, all others are trusted.
ACCESS = """
local    all  all                             trust
hostssl  all  with_certificate  samehost      cert
host     all  with_password     samehost      scram-sha-256
host     all  all               samehost      trust
"""

CONFIGURATION = """
fsync = off
listen_addresses = 'localhost'
port = {port}
ssl = on
ssl_ca_file = '{folder}/ca.crt'
ssl_cert_file = '{folder}/server.crt'
ssl_key_file = '{folder}/server.key'
unix_socket_directories = '{folder}'
"""

REVOCATION = """
[ca]
default_ca = default
[default]
certificate = ca.crt
database = index.txt
default_crl_days = 30
default_md = sha256
private_key = ca.key
"""


class TlsServer(NamedTuple):
    url: URL
    folder: Path  # ca.crt, other.crt, client.crt, client.key, and the CRLs empty.crl and revoked.crl, passwords


@contextmanager
def tls_server() -> Iterator[TlsServer]:
    """Run the server, or skip the test if there are no binaries with OpenSSL."""
    with launch(sys.executable, "-m", "tests.conformance.harness.tls") as keeper:
        try:
            assert keeper.stdout
            line = keeper.stdout.readline()
            assert line, keeper.stderr and keeper.stderr.read()
            message: dict[str, Any] = json.loads(line)
            if "error" in message:
                pytest.skip(f"no PostgreSQL server with TLS: {message['error']}")
            yield TlsServer(make_url(message["url"]), Path(message["folder"]))
        finally:
            keeper.communicate("done\n", timeout=SECONDS_TO_STOP)


def main() -> None:
    folder = Path(mkdtemp(prefix="tls-"))
    data = folder / "data"
    try:
        port = start(folder, data)
        url = URL.create("postgresql", "postgres", host="localhost", port=port, database="postgres")
        send(url=url.render_as_string(), folder=str(folder))
        sys.stdin.readline()
    except UnavailableError as error:
        send(error=str(error))
    finally:
        kill(data / "postmaster.pid")
        shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path, data: Path) -> int:
    """Start the server and return its port."""
    binaries = find_binaries()
    with socket.create_server(("localhost", 0)) as free:
        port: int = free.getsockname()[1]
    make_certificates(folder)
    (folder / "passwords").touch(mode=0o600)
    (folder / "passwords").write_text("*:*:*:with_password:secret")
    user = "postgres" if os.geteuid() == 0 else None  # the binaries refuse to run as root
    if user:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, user)

    def run(program: str, *arguments: str) -> None:
        command = [str(binaries / program), "--pgdata", str(data), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder)

    run(
        "initdb",
        "--username=postgres",
        "--no-sync",
        "--auth=trust",
        "--encoding=UTF8",
        "--no-locale",
    )
    (data / "pg_hba.conf").write_text(ACCESS)
    with (data / "postgresql.conf").open("a") as file:
        file.write(CONFIGURATION.format(folder=folder, port=port))
    run("pg_ctl", "start", "--wait", "--silent", "--log", str(folder / "log"))
    return port


def find_binaries() -> Path:
    """Return the folder of PostgreSQL's programs. Debian does not have it on PATH."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    if on_path := shutil.which("initdb"):
        folders.insert(0, Path(on_path).resolve().parent)
    for folder in folders:
        if (folder / "initdb").exists() and shutil.which("openssl"):
            return folder
    raise UnavailableError("install PostgreSQL and OpenSSL (Debian: postgresql, openssl)")


def make_certificates(folder: Path) -> None:
    """Create a CA, the certificates that it signs, and lists of the ones that it has revoked."""

    program = shutil.which("openssl") or ""

    def openssl(*arguments: str) -> None:
        subprocess.run([program, *arguments], check=True, cwd=folder, stderr=subprocess.DEVNULL)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")
    for name in ("ca", "other"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.crt")
        openssl("req", "-x509", *key, "-subj", f"/CN={name}", *files)
    for name, subject in SIGNED.items():
        openssl(
            *("req", "-x509", *key, "-subj", subject, "-CA", "ca.crt", "-CAkey", "ca.key"),
            *("-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", f"{name}.key", "-out", f"{name}.crt"),
        )
    (folder / "ca.cnf").write_text(REVOCATION)
    (folder / "index.txt").touch()
    openssl("ca", "-config", "ca.cnf", "-gencrl", "-out", "empty.crl")
    openssl("ca", "-config", "ca.cnf", "-revoke", "server.crt")
    openssl("ca", "-config", "ca.cnf", "-gencrl", "-out", "revoked.crl")


if __name__ == "__main__":
    main()
