"""TLS parameters of PostgreSQL URLs: the system's CAs, and files that asyncpg could not load.

https://www.postgresql.org/docs/current/libpq-ssl.html
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

Query = Mapping[str, str | tuple[str, ...]]

STRICT = {"require", "verify-ca", "verify-full"}  # the modes that never connect without TLS
SYSTEM = "system"  # a value of sslrootcert


def mode_of(query: Query) -> str | None:
    """Return the mode of a resolved URL. The CAs of the system are used with `verify-full` only.

    Raises:
        ValueError: two parameters contradict each other, or one is missing.
    """
    given, mode = _parameters(query), query.get("ssl")
    if given.get("sslrootcert") == SYSTEM:
        mode = mode or "verify-full"
        if mode != "verify-full":
            raise ValueError(f"sslrootcert=system needs sslmode=verify-full, and not {mode!r}")
    if mode == "verify-ca" and not _root_certificate(given):
        raise ValueError(
            "sslmode=verify-ca needs the certificate of a CA: add sslrootcert=/path/to/ca.crt, "
            "or write sslmode=verify-full, which uses the CAs of the system"
        )
    is_direct = given.get("sslnegotiation") == "direct" or query.get("direct_tls") == "true"
    if is_direct and mode not in STRICT:
        raise ValueError("sslnegotiation=direct needs sslmode=require or sslmode=verify-full")
    return str(mode) if mode else None


def context_with_system_cas(query: Query) -> ssl.SSLContext | None:
    """Return the TLS context of a resolved URL that trusts the CAs of the system, None for others.

    asyncpg makes the context of the others. It loads CAs from one file only.
    """
    given = _parameters(query)
    if query.get("ssl") != "verify-full" or _root_certificate(given) not in {"", SYSTEM}:
        return None
    context = ssl.create_default_context()
    # As libpq and asyncpg: Python 3.13 refuses CAs without a key usage, which many private ones are.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["postgresql"])  # direct TLS needs it
    if certificate := given.get("sslcert"):
        context.load_cert_chain(certificate, given.get("sslkey"))
    if revoked := given.get("sslcrl"):
        context.load_verify_locations(revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    for end in ("minimum", "maximum"):
        if version := given.get(f"ssl_{end[:3]}_protocol_version"):
            setattr(context, f"{end}_version", ssl.TLSVersion[version.replace(".", "_")])
    return context


def refuse_unusable_files(query: Query) -> None:
    """Raise `ValueError` with the path if a file of a resolved URL cannot be loaded."""
    given = _parameters(query)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in ("sslrootcert", "sslcrl", "sslcert", "sslkey"):
        path = given.get(name, SYSTEM)
        if path == SYSTEM:
            continue
        try:
            Path(path).read_bytes()  # errors of `ssl` do not name the file
            if name in {"sslrootcert", "sslcrl"}:
                context.load_verify_locations(path)
            elif name == "sslkey" and "sslcert" in given:
                context.load_cert_chain(given["sslcert"], path, password="")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(
                f"{name}={path!r} cannot be used ({reason}): write the path of a PEM file that "
                "the service can read"
            ) from None


def _parameters(query: Query) -> dict[str, str]:
    """Return the parameters that are in the `dsn` of a resolved URL."""
    return dict(parse_qsl(urlsplit(str(query.get("dsn", ""))).query))


def _root_certificate(given: dict[str, str]) -> str:
    """Return the path of the CA's certificate as libpq finds it, an empty string if there is none."""
    default = os.path.expanduser("~/.postgresql/root.crt")
    named = given.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    return named or (default if os.path.exists(default) else "")
