"""The report on the wire: what a user did, from both databases."""

from app.schemas.user import UserRead


class UserActivity(UserRead):
    events: int
