"""Response model of the report: a user, and how many events they have."""

from app.schemas.user import UserRead


class UserActivity(UserRead):
    events: int
