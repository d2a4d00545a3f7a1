"""The PostgreSQL server from the wheel: any locale of the developer, and its errors are shown."""

import pytest

from tests.harness.server import UnavailableError
from tests.harness.wheel import wheel

pytestmark = pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")  # the wheel, when it is imported


def test_server_starts_although_the_locale_does_not_exist(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("LC_ALL", "xx_YY.UTF-8")

    with wheel() as server:
        assert server.url.host or server.url.query


def test_error_of_the_server_is_shown(environment: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(UnavailableError, match=r"FATAL: .*nonsense"),
        wheel(shared_preload_libraries="nonsense"),
    ):
        pass
