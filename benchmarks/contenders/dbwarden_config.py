"""DBWarden's configuration, which it loads when the first session is requested."""

from dbwarden import database_config

from benchmarks.contenders.users import ASYNC_URL, URL

database_config(
    database_name="primary",
    default=True,
    database_type="postgresql",
    database_url_sync=URL,
    database_url_async=ASYNC_URL,
)
