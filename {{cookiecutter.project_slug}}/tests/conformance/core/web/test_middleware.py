"""The application: each call returns a new one, and what its middleware does for every route."""

import asyncio
import logging
from collections.abc import Callable

import pytest
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from httpx2 import AsyncClient
from sqlalchemy import text
from starlette.middleware import Middleware
from starlette.middleware.base import (  # noqa: TID251
    BaseHTTPMiddleware,
    RequestResponseEndpoint,
)
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import BaseRoute, Host, Mount, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.web.error_handlers import Application
from app.dependencies import ReadSessionDep
from app.main import create_app
from tests.support import USERS, disconnecting, problem, serve, until

ORIGIN = {"Origin": "https://example.com"}


def test_create_app_returns_a_new_application() -> None:
    assert create_app() is not create_app()


def test_no_middleware_is_a_base_http_middleware() -> None:
    """BaseHTTPMiddleware costs a quarter of a request."""
    classes = [middleware.cls for middleware in create_app().user_middleware]

    assert classes
    assert not [
        cls for cls in classes if isinstance(cls, type) and issubclass(cls, BaseHTTPMiddleware)
    ]


@pytest.mark.parametrize(
    "path", ["/health/live", "/health/ready", "/health/primary", "/docs", "/openapi.json", USERS]
)
async def test_head_has_the_head_of_get_and_no_body(server: AsyncClient, path: str) -> None:
    get = await server.get(path)
    head = await server.head(path)
    again = await server.get(path)  # on the same connection: no body was left in it

    assert (200, b"") == (head.status_code, head.content)
    assert again.content == get.content
    for name in ("content-length", "content-type"):
        assert head.headers[name] == get.headers[name]


def add_routes(app: FastAPI) -> None:
    """Add routes for HEAD and GET, for both together, for GET after POST, and for POST alone."""

    async def method(request: Request) -> Response:
        return Response(headers={"X-Method": request.method})

    app.add_api_route("/own", method, methods=["GET"])
    app.add_api_route("/own", method, methods=["HEAD"])
    app.add_api_route("/other", method, methods=["POST"])
    app.add_api_route("/other", method, methods=["GET"])
    app.add_api_route("/post", method, methods=["POST"])


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(headers={"X-Method": scope["method"]})(scope, receive, send)


async def reads_first(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body before the method is refused, as a WSGI application does."""
    await Request(scope, receive).body()
    await Response(status_code=405)(scope, receive, send)


@pytest.fixture
def with_mounted(app: FastAPI) -> FastAPI:
    """The application, with the same routes in itself and in mounted applications."""
    mounted, with_middleware, reading, inner = (FastAPI() for _ in range(4))

    @with_middleware.middleware("http")
    async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    for each in (app, mounted, with_middleware, reading, inner):
        add_routes(each)

    @reading.middleware("http")
    async def read_body(request: Request, call_next: RequestResponseEndpoint) -> Response:
        await request.body()
        return await call_next(request)

    app.mount("/mounted", mounted)
    app.mount("/reading", reading)
    mounted.mount("/inner", inner)
    app.mount("/wrapped", CORSMiddleware(with_middleware, allow_origins=["*"]))
    app.mount("/raw", raw)
    app.mount("/reads-first", reads_first)
    app.host("other.example.com", mounted)
    return app


@pytest.mark.sqlite  # it uses no database
@pytest.mark.parametrize(
    "prefix", ["", "/mounted", "/mounted/inner", "/wrapped", "/reading", "//other"]
)
@pytest.mark.parametrize(
    ("path", "status", "method"),
    [("/own", 200, "HEAD"), ("/other", 200, "GET"), ("/post", 405, None), ("/none", 404, None)],
)
async def test_head_is_called_as_head_if_there_is_a_route_for_it_and_as_get_otherwise(
    with_mounted: FastAPI,
    caplog: pytest.LogCaptureFixture,
    prefix: str,
    path: str,
    status: int,
    method: str | None,
) -> None:
    name = "app.core.web.request_logging"
    caplog.set_level(logging.INFO, name)
    host = {"Host": "other.example.com"} if prefix == "//other" else {}
    path = prefix.removeprefix("//other") + path
    with_mounted.add_middleware(CORSMiddleware, allow_origins=["*"])

    async with serve(with_mounted) as server:
        response = await server.head(path, headers=ORIGIN | host)

    assert (status, b"") == (response.status_code, response.content)
    assert response.headers.get("x-method") == method
    assert response.headers["access-control-allow-origin"] == "*"
    assert [f"HEAD {status}"] == [
        f"{vars(record)['method']} {vars(record)['status']}"
        for record in caplog.records
        if record.name == name
    ]


@pytest.mark.sqlite  # it uses no database
async def test_mounted_asgi_application_gets_head(with_mounted: FastAPI) -> None:
    async with serve(with_mounted) as server:
        assert (await server.head("/raw/x")).headers["x-method"] == "HEAD"
        assert (await server.head("/reads-first/x")).status_code == 405
        body = await server.request("HEAD", "/reading/other", content=b"x")
        assert body.status_code == 405  # it cannot be read again


@pytest.mark.sqlite  # it uses no database
async def test_disconnect_cancels_a_head_that_is_repeated_as_get(
    app: FastAPI, server: AsyncClient
) -> None:
    methods: list[str] = []
    cancelled = asyncio.Event()

    @app.get("/wait")
    async def wait(request: Request) -> None:
        methods.append(request.method)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with disconnecting(server, "HEAD", "/wait"):
        await until(lambda: methods == ["GET"])

    async with asyncio.timeout(10):
        await cancelled.wait()


async def test_head_of_a_missing_resource_is_404_and_logged_as_head(
    server: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app")

    response = await server.head(f"{USERS}/00000000-0000-0000-0000-000000000000")

    assert (404, b"") == (response.status_code, response.content)
    assert ["HEAD " + USERS + "/{user_id} 404"] == [
        record.getMessage()[: record.getMessage().index("404") + 3]
        for record in caplog.records
        if record.name == "app.core.web.request_logging"
    ]
    assert (await server.head("/docs/nothing")).status_code == 404


def add_failing_routes(app: FastAPI) -> None:
    """Add routes that fail: with an unexpected error, an HTTPException and an SQLAlchemyError."""

    async def fail() -> None:
        raise RuntimeError("hidden")

    async def refuse() -> None:
        raise HTTPException(418, "tea")

    async def query(session: ReadSessionDep) -> None:
        await session.execute(text("SELECT * FROM nowhere"))

    for route in (fail, refuse, query):
        app.get(f"/{route.__name__}")(route)


def mount(app: FastAPI) -> None:
    """Add routes that fail, and mount an application with the same routes."""
    mounted = FastAPI()
    for each in (app, mounted):
        add_failing_routes(each)
    app.mount("/mounted", mounted)


@pytest.mark.parametrize("prefix", ["", "/mounted"])
@pytest.mark.parametrize(("path", "status"), [("fail", 500), ("refuse", 418), ("query", 500)])
async def test_every_error_is_a_problem_with_cors_headers_and_one_request_id(
    app: FastAPI, prefix: str, path: str, status: int
) -> None:
    mount(app)
    app.add_middleware(CORSMiddleware, allow_origins=["*"], expose_headers=["X-Request-ID"])

    async with serve(app) as server:
        response = await server.get(f"{prefix}/{path}", headers=ORIGIN)

    assert problem(response)["status"] == status
    assert "hidden" not in response.text
    assert response.headers["access-control-allow-origin"] == "*"
    assert len(response.headers.get_list("x-request-id")) == 1


@pytest.mark.sqlite  # it uses no database
@pytest.mark.parametrize("prefix", ["", "/mounted"])
@pytest.mark.parametrize("key", [Exception, 500])
async def test_own_handler_of_unexpected_errors_is_called_once_and_gets_cors_headers(
    app: FastAPI, prefix: str, key: type[Exception] | int
) -> None:
    mount(app)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    errors: list[str] = []

    @app.exception_handler(key)
    def handle(_: Request, error: Exception) -> Response:
        errors.append(str(error))
        return Response("own", status_code=500)

    async with serve(app) as server:
        response = await server.get(f"{prefix}/fail", headers=ORIGIN)

    assert (500, "own", ["hidden"]) == (response.status_code, response.text, errors)
    assert response.headers["access-control-allow-origin"] == "*"
    assert len(response.headers.get_list("x-request-id")) == 1


@pytest.mark.sqlite  # it uses no database
@pytest.mark.parametrize("prefix", ["", "/mounted"])
async def test_own_handler_may_be_an_object_with_an_async_call(app: FastAPI, prefix: str) -> None:
    class Handler:
        async def __call__(self, _: Request, error: Exception) -> Response:
            return Response("own", status_code=500)

    mount(app)
    app.add_exception_handler(Exception, Handler())

    async with serve(app) as server:
        assert (await server.get(f"{prefix}/fail")).text == "own"


@pytest.mark.sqlite  # it uses no database
@pytest.mark.parametrize("prefix", ["", "/mounted"])
async def test_own_handler_that_fails_is_called_once_and_logged(
    app: FastAPI, caplog: pytest.LogCaptureFixture, prefix: str
) -> None:
    mount(app)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    calls: list[str] = []

    @app.exception_handler(Exception)
    async def handle(_: Request, error: Exception) -> Response:
        calls.append(str(error))
        raise LookupError("of the handler")

    async with serve(app) as server:
        response = await server.get(f"{prefix}/fail", headers=ORIGIN)

    assert problem(response)["status"] == 500
    assert response.headers["access-control-allow-origin"] == "*"
    assert calls == ["hidden"]
    assert "The handler of unexpected errors failed." in caplog.text
    assert "LookupError: of the handler" in caplog.text
    assert "RuntimeError: hidden" in caplog.text


@pytest.mark.sqlite  # it uses no database
async def test_application_may_be_mounted_in_itself(app: FastAPI) -> None:
    mounted = FastAPI()
    add_failing_routes(mounted)
    app.mount("/mounted", mounted)
    mounted.mount("/again", app)
    app.mount("/prefix", app)

    async with serve(app) as server:
        assert (await server.get("/prefix/health/live")).status_code == 200
        assert problem(await server.get("/prefix/mounted/again/mounted/fail"))["status"] == 500


MOUNTS: dict[str, Callable[[ASGIApp], BaseRoute]] = {
    "mounted": lambda app: Mount("/mounted", app),
    "application": lambda app: Mount("/mounted", app),
    "wrapped": lambda app: Mount("/mounted", CORSMiddleware(GZipMiddleware(app))),
    "with middleware": lambda app: Mount("/mounted", app, middleware=[Middleware(GZipMiddleware)]),
    "nested": lambda app: Mount("/mounted", routes=[Mount("", app)]),
    "host": lambda app: Host("127.0.0.1", Router([Mount("/mounted", app)])),
}


@pytest.mark.parametrize("way", MOUNTS)
@pytest.mark.parametrize(("path", "status"), [("fail", 500), ("refuse", 418), ("query", 500)])
async def test_mounted_application_uses_the_handlers_wherever_it_is_mounted(
    app: FastAPI, way: str, path: str, status: int
) -> None:
    mounted = Application() if way == "application" else FastAPI()
    add_failing_routes(mounted)
    app.router.routes.append(MOUNTS[way](mounted))

    async with serve(app) as server:
        assert problem(await server.get(f"/mounted/{path}"))["status"] == status


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (RuntimeError, "fail"),
        (Exception, "fail"),
        (500, "fail"),
        (
            Exception,
            "query",
        ),  # its own handler for all errors, although the service has a narrower one
        (500, "query"),
        (HTTPException, "refuse"),  # although the service has one for this status
        (418, "refuse"),
    ],
)
async def test_handler_of_a_mounted_application_takes_precedence(
    app: FastAPI, key: type[Exception] | int, path: str
) -> None:
    async def handle(_: Request, error: Exception) -> Response:
        return Response("mounted", status_code=500)

    async def other(_: Request, error: Exception) -> Response:
        return Response("other", status_code=500)

    mounted = FastAPI(exception_handlers={key: handle})
    add_failing_routes(mounted)
    app.mount("/mounted", mounted)
    for each in (500, 418):
        app.add_exception_handler(each, other)

    async with serve(app) as server:
        assert (await server.get(f"/mounted/{path}")).text == "mounted"


@pytest.mark.sqlite  # it uses no database
async def test_error_of_a_middleware_is_a_problem_or_has_the_own_handler(app: FastAPI) -> None:
    @app.middleware("http")
    async def fail(request: Request, call_next: object) -> Response:
        raise RuntimeError("middleware")

    async with serve(app) as server:
        assert problem(await server.get("/health/live"))["status"] == 500

    own = create_app()
    own.middleware("http")(fail)
    errors: list[str] = []

    @own.exception_handler(Exception)
    async def handle(_: Request, error: Exception) -> Response:
        errors.append(str(error))
        return Response("own", status_code=500)

    async with serve(own) as server:
        assert (await server.get("/health/live")).text == "own"
    assert errors == ["middleware"]
