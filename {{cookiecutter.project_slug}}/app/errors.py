"""Domain errors: each has the HTTP status and the title of its response."""

from typing import Any

from app.core.web.problem_details import RETRY_AFTER, Problem, ServiceError

__all__ = ["ConflictError", "InvalidCursorError", "NotFoundError", "NotReadyError", "ServiceError"]


class NotFoundError(ServiceError):
    status = 404
    title = "Not found"


class ConflictError(ServiceError):
    status = 409
    title = "Conflict"


class InvalidCursorError(ServiceError):
    status = 422
    title = "Invalid cursor"


class NotReadyError(ServiceError):
    """The service is not ready. `databases` has the state of each checked database."""

    status = 503
    title = "Service unavailable"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.members = members

    def problem(self) -> Problem:
        return Problem(self.status, self.title, str(self), RETRY_AFTER, self.members)
