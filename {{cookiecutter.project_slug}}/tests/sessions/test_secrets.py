"""No secret shows."""

import pytest
from sqlalchemy.exc import IntegrityError

from app.core.db import session_scope
from app.models import User


async def test_parameters_stay_out_of_error_messages(databases: None) -> None:
    with pytest.raises(IntegrityError) as error:
        async with session_scope() as session:
            session.add_all([User(name="Ada", email="ada@example.com") for _ in range(2)])

    assert "ada@example.com" not in str(error.value)
