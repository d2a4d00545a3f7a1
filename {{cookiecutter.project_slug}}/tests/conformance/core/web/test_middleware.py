"""The application: each call returns a new one, and its middleware is plain ASGI."""

from starlette.middleware.base import BaseHTTPMiddleware  # noqa: TID251

from app.main import create_app


def test_create_app_returns_a_new_application() -> None:
    assert create_app() is not create_app()


def test_no_middleware_is_a_base_http_middleware() -> None:
    """BaseHTTPMiddleware costs a quarter of a request."""
    classes = [middleware.cls for middleware in create_app().user_middleware]

    assert classes
    assert not [
        cls for cls in classes if isinstance(cls, type) and issubclass(cls, BaseHTTPMiddleware)
    ]
