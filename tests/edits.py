"""Ordinary edits of a service, as its team makes them: each function changes a rendered service."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

Edit = Callable[[Path], None]

APPLICATION = "app/main.py"
CONFIG = "app/core/config.py"
END_OF_CREATE_APP = "    return app\n"

NAMED = re.compile(r"analytics|\bevents?\b|\breports?\b", re.IGNORECASE)
STEP = re.compile(
    r"(?:In|At the end of) `(?P<file>[^`]+)`(?:, (?P<where>above|below) `(?P<anchor>[^`]+)`)?:\n\n"
    r"(?P<code>(?: {4}.*\n|\n)+)"
)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path} has {text.count(old)} times {old!r}"
    path.write_text(text.replace(old, new))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def add_import(project: Path, line: str) -> None:
    """Add this line to the imports of main.py."""
    main = project / APPLICATION
    main.write_text(main.read_text().replace("from app.", f"{line}\nfrom app.", 1))


def register(project: Path, import_router: str, include_router: str) -> None:
    """Add these lines to main.py."""
    add_import(project, import_router)
    replace(project / APPLICATION, END_OF_CREATE_APP, f"    {include_router}\n{END_OF_CREATE_APP}")


def add_setting(project: Path, field: str, example: str) -> None:
    anchor = "    databases: dict[str, DatabaseSettings] = {}\n"
    replace(project / CONFIG, anchor, f"    {field}\n{anchor}")
    append(project / ".env.example", f"\n{example}")


def add_revision(project: Path, revision: str, upgrade: str, downgrade: str) -> None:
    """Add a revision to the primary database, after its head."""
    folder = project / "app/migrations/primary"
    texts = [path.read_text() for path in folder.glob("*.py")]
    revisions = {re.findall(r'^revision: str = "(\w+)"', text, re.M)[0] for text in texts}
    parents = {
        name for text in texts for name in re.findall(r'^down_revision.*"(\w+)"', text, re.M)
    }
    [head] = revisions - parents
    write(
        folder / f"20270101_{revision}.py",
        f'"""{revision}"""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\n'
        f'revision: str = "{revision}"\ndown_revision: str | None = "{head}"\n\n\n'
        f"def upgrade() -> None:\n{upgrade}\n\ndef downgrade() -> None:\n{downgrade}",
    )


def section(project: Path, title: str) -> str:
    """Return the section of the README with this title."""
    [text] = re.findall(
        rf"^## {title}\n(.*?)(?=^## |\Z)", (project / "README.md").read_text(), re.DOTALL | re.M
    )
    return str(text)


def follow(project: Path, title: str) -> int:
    """Make the edits in a section of the README. Return the number of changed files."""
    steps = [*STEP.finditer(section(project, title))]
    for step in steps:
        path = project / step["file"]
        code = re.sub(r"^ {4}", "", step["code"], flags=re.M).rstrip("\n") + "\n"
        if step["where"] == "below":
            replace(path, f"{step['anchor']}\n", f"{step['anchor']}\n{code}")
        elif step["where"] == "above":
            gap = "\n" * (len(step["code"]) - len(step["code"].rstrip("\n")) - 1)
            replace(path, step["anchor"], f"{code}{gap}{step['anchor']}")
        else:
            append(path, code)
    return len({step["file"] for step in steps})


# Edits of the application


def add_security(project: Path) -> None:
    """Routes with FastAPI's security classes as dependencies."""
    write(
        project / "app/routers/account.py",
        '''"""Routes for the account of the caller, who may identify in three ways."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.security import (
    APIKeyHeader,
    HTTPAuthorizationCredentials,
    HTTPBearer,
    OAuth2PasswordBearer,
)

Key = Annotated[str, Depends(APIKeyHeader(name="X-API-Key"))]
Bearer = Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]
Token = Annotated[str, Depends(OAuth2PasswordBearer(tokenUrl="token"))]

router = APIRouter(prefix="/account", tags=["account"])


@router.get("/by-key")
async def get_account_by_key(key: Key) -> str:
    return key


@router.get("/by-bearer")
async def get_account_by_bearer(bearer: Bearer) -> str:
    return bearer.credentials


@router.get("/by-token")
async def get_account_by_token(token: Token) -> str:
    return token
''',
    )
    register(
        project, "from app.routers.account import router as account", "app.include_router(account)"
    )
    write(
        project / "tests/routers/test_account.py",
        '''"""/account: three ways to identify."""

import pytest
from httpx2 import AsyncClient


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("by-key", {"X-API-Key": "secret"}),
        ("by-bearer", {"Authorization": "Bearer secret"}),
        ("by-token", {"Authorization": "Bearer secret"}),
    ],
)
async def test_caller_must_identify(
    client: AsyncClient, path: str, headers: dict[str, str]
) -> None:
    assert (await client.get(f"/account/{path}")).status_code == 401
    assert (await client.get(f"/account/{path}", headers=headers)).json() == "secret"
''',
    )


def add_cors(project: Path) -> None:
    """CORSMiddleware, with origins from a setting."""
    add_setting(
        project,
        'cors_origins: list[str] = ["https://example.com"]',
        "# Origins of the browsers that may call the service, as JSON.\n"
        'CORS_ORIGINS=["https://example.com"]\n',
    )
    replace(
        project / APPLICATION,
        "from fastapi import FastAPI\n",
        "from fastapi import FastAPI\nfrom fastapi.middleware.cors import CORSMiddleware\n",
    )
    replace(
        project / APPLICATION,
        "    add_problem_handlers(app)\n",
        "    app.add_middleware(\n"
        "        CORSMiddleware,\n"
        "        allow_origins=get_settings().cors_origins,\n"
        '        allow_methods=["*"],\n'
        '        allow_headers=["*"],\n'
        "    )\n"
        "    add_problem_handlers(app)\n",
    )
    write(
        project / "tests/core/web/test_cors.py",
        '''"""Browsers on other origins may call the service."""

import pytest
from httpx2 import AsyncClient


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [("https://example.com", "https://example.com"), ("https://example.org", None)],
)
async def test_origin_is_allowed(client: AsyncClient, origin: str, allowed: str | None) -> None:
    response = await client.get("/health/live", headers={"Origin": origin})

    assert response.headers.get("access-control-allow-origin") == allowed
''',
    )


def add_greeting(project: Path) -> None:
    """Settings of each kind: one is returned by a new route, and one must be set in production."""
    add_setting(project, 'greeting: str = "Hello"', "# First word of /greeting.\nGREETING=Hello\n")
    add_setting(
        project,
        'token: SecretStr = Field(SecretStr(""), validation_alias="SIGNING_KEY")',
        "# Key of the signatures. Required in production.\nSIGNING_KEY=\n",
    )
    add_setting(project, "mail: Mail | None = None", "# Server for mail.\nMAIL__HOST=\n")
    config = project / CONFIG
    replace(config, "class Settings(", "class Mail(BaseModel):\n    host: str\n\n\nclass Settings(")
    replace(config, "from pydantic import ", "from pydantic import BaseModel, ")
    replace(
        config,
        "        return self\n",
        '        if self.environment == "production" and not self.token.get_secret_value():\n'
        '            raise ValueError("set SIGNING_KEY in production")\n'
        "        return self\n",
    )
    production = '{"ENVIRONMENT": "production"'
    replace(project / "tests/support.py", production, f'{production}, "SIGNING_KEY": "secret"')
    if (project / "tests/conformance").exists():
        replace(project / "deploy/README.md", "```sh\n", "```sh\nSIGNING_KEY=secret\n")
    write(
        project / "app/routers/greeting.py",
        '''"""Routes for the greeting."""

from fastapi import APIRouter

from app.core.config import get_settings

router = APIRouter(prefix="/greeting")


@router.get("")
async def greet() -> str:
    return f"{get_settings().greeting}, world"
''',
    )
    register(
        project,
        "from app.routers.greeting import router as greeting",
        "app.include_router(greeting)",
    )


def add_middleware(project: Path) -> None:
    """Starlette's middleware for gzip, and one that adds a header."""
    write(
        project / "app/core/web/security_headers.py",
        '''"""Middleware that tells browsers to trust the content type."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class SecurityHeadersMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers.add_vary_header("Accept-Language")
            await send(message)

        await self.app(scope, receive, send_with_header)
''',
    )
    main = project / APPLICATION
    add_import(project, "from app.core.web.security_headers import SecurityHeadersMiddleware")
    add_import(project, "from fastapi.middleware.gzip import GZipMiddleware")
    replace(
        main,
        "    add_problem_handlers(app)\n",
        "    app.add_middleware(SecurityHeadersMiddleware)\n"
        "    app.add_middleware(GZipMiddleware)\n"
        "    add_problem_handlers(app)\n",
    )


def extend_lifespan(project: Path) -> None:
    """A task that runs as long as the application."""
    main = project / APPLICATION
    replace(
        main,
        "@asynccontextmanager\nasync def lifespan",
        "async def tick(app: FastAPI) -> None:\n"
        "    while True:\n"
        "        app.state.ticks += 1\n"
        "        await asyncio.sleep(60)\n\n\n"
        "@asynccontextmanager\nasync def lifespan",
    )
    replace(
        main,
        "    freeze_startup_objects()\n",
        "    freeze_startup_objects()\n"
        "    app.state.ticks = 0\n"
        "    ticking = asyncio.create_task(tick(app))\n",
    )
    replace(main, "    finally:\n", "    finally:\n        ticking.cancel()\n")


def change_prefix(project: Path) -> None:
    """All routers below /api/v1, as app/routers/__init__.py says, in an API without a description."""
    init = project / "app/__init__.py"
    init.write_text(re.sub('^DESCRIPTION = ".*"', 'DESCRIPTION = ""', init.read_text(), flags=re.M))
    replace(project / "app/routers/__init__.py", 'API_PREFIX = ""', 'API_PREFIX = "/api/v1"')


# Edits of tables


def add_orders(project: Path) -> None:
    """A resource with an enum, a relationship, and a list route with seven parameters."""
    write(
        project / "app/models/order.py",
        '''"""Orders and their lines, in the primary database."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.models.base import PrimaryBase, UtcDateTime, utc_now


class OrderStatus(StrEnum):
    NEW = "new"
    PAID = "paid"


class Order(PrimaryBase):
    __tablename__ = "orders"
    __table_args__ = (Index(None, "user_id"),)

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True, default=uuid4)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    status: Mapped[OrderStatus] = mapped_column(default=OrderStatus.NEW)
    note: Mapped[str] = mapped_column(String(200), default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    lines: Mapped[list["OrderLine"]] = relationship(
        back_populates="order", cascade="all, delete-orphan", lazy="raise"
    )


class OrderLine(PrimaryBase):
    __tablename__ = "order_lines"
    __table_args__ = (Index(None, "order_id"), CheckConstraint("quantity > 0", name="quantity"))

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True, default=uuid4)
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"))
    product: Mapped[str] = mapped_column(String(200))
    quantity: Mapped[int]
    order: Mapped[Order] = relationship(back_populates="lines", lazy="raise")
''',
    )
    append(
        project / "app/models/__init__.py",
        "from app.models.order import Order as Order\n"
        "from app.models.order import OrderLine as OrderLine\n",
    )
    add_revision(
        project,
        "a1_create_orders",
        """    op.create_table(
        "orders",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(50), nullable=False),
        sa.Column("note", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_orders_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
    )
    op.create_index(op.f("ix_orders_user_id"), "orders", ["user_id"])
    op.create_table(
        "order_lines",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("product", sa.String(length=200), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_order_lines_quantity")),
        sa.ForeignKeyConstraint(
            ["order_id"],
            ["orders.id"],
            name=op.f("fk_order_lines_order_id_orders"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_lines")),
    )
    op.create_index(op.f("ix_order_lines_order_id"), "order_lines", ["order_id"])
""",
        """    op.drop_table("order_lines")
    op.drop_table("orders")
""",
    )
    write(
        project / "app/schemas/order.py",
        '''"""Request and response models of orders."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.models.order import OrderStatus
from app.schemas.fields import Name


class OrderLine(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    product: Name
    quantity: Annotated[int, Field(ge=1, le=1000)]


class OrderCreate(BaseModel):
    user_id: UUID
    note: str = ""
    lines: list[OrderLine]


class OrderRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    user_id: UUID
    status: OrderStatus
    note: str
    created_at: datetime
    lines: list[OrderLine]
''',
    )
    write(
        project / "app/routers/orders.py",
        '''"""Routes for orders."""

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter, status
from sqlalchemy import select
from sqlalchemy.orm import selectinload

from app.dependencies import ReadSessionDep, SessionDep
from app.models import Order, OrderLine
from app.models.order import OrderStatus
from app.schemas.order import OrderCreate, OrderRead
from app.schemas.page import Limit

router = APIRouter(prefix="/orders", tags=["orders"])


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_order(new: OrderCreate, session: SessionDep) -> OrderRead:
    lines = [OrderLine(**vars(line)) for line in new.lines]
    order = Order(user_id=new.user_id, note=new.note, lines=lines)
    session.add(order)
    await session.flush()
    return OrderRead.model_validate(order)


@router.get("")
async def list_orders(
    session: ReadSessionDep,
    user_id: UUID | None = None,
    status: OrderStatus | None = None,
    note: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: Limit = 50,
) -> list[OrderRead]:
    equal = {"user_id": user_id, "status": status, "note": note}
    given = {name: value for name, value in equal.items() if value is not None}
    orders = select(Order).filter_by(**given).order_by(Order.created_at, Order.id).limit(limit)
    if since is not None:
        orders = orders.where(Order.created_at >= since)
    if until is not None:
        orders = orders.where(Order.created_at < until)
    rows = await session.scalars(orders.options(selectinload(Order.lines)))
    return [OrderRead.model_validate(order) for order in rows]
''',
    )
    register(
        project,
        "from app.routers.orders import router as orders",
        "app.include_router(orders, prefix=API_PREFIX)",
    )
    write(
        project / "tests/routers/test_orders.py",
        '''"""/orders: an order has lines and a status."""

from httpx2 import AsyncClient

from app.routers import API_PREFIX
from tests.support import USERS, user_values

ORDERS = f"{API_PREFIX}/orders"


async def test_order_is_stored_with_its_lines(client: AsyncClient) -> None:
    user = (await client.post(USERS, json=user_values())).json()
    lines = [{"product": "tea", "quantity": 2}]

    created = await client.post(ORDERS, json={"user_id": user["id"], "lines": lines})

    assert created.status_code == 201, created.text
    assert (lines, "new") == (created.json()["lines"], created.json()["status"])
    query = {"user_id": user["id"], "status": "new", "until": "2999-01-01T00:00:00Z"}
    assert (await client.get(ORDERS, params=query)).json() == [created.json()]
    assert (await client.get(ORDERS, params={"status": "paid"})).json() == []
''',
    )


def rename_column(project: Path) -> None:
    """`note` of orders becomes `comment`. It needs `add_orders`."""
    for name in ("models/order.py", "schemas/order.py", "routers/orders.py"):
        path = project / "app" / name
        path.write_text(re.sub(r"\bnote\b", "comment", path.read_text()))
    rename = """    with op.batch_alter_table("orders") as table:
        table.alter_column("{}", new_column_name="{}")
"""
    add_revision(
        project,
        "a2_rename_note",
        rename.format("note", "comment"),
        rename.format("comment", "note"),
    )


def add_required_columns(project: Path) -> None:
    """Two NOT NULL columns of users: one with a server default, one that each request must give.

    An index on an expression, which SQLAlchemy cannot reflect on SQLite.
    """
    model = project / "app/models/user.py"
    replace(model, "import Index, String, Uuid", "import Index, String, Uuid, func")
    append(model, '\n\nIndex("ix_users_lower_email", func.lower(User.email))\n')
    replace(
        model,
        "    version: Mapped[int]",
        '    language: Mapped[str] = mapped_column(String(10), server_default="en")\n'
        "    phone: Mapped[str] = mapped_column(String(20))\n"
        "    version: Mapped[int]",
    )
    schema = project / "app/schemas/user.py"
    replace(
        schema,
        "    email: EmailStr\n",
        '    email: EmailStr\n    phone: str\n    language: str = "en"\n',
    )
    replace(schema, "    email: str\n", "    email: str\n    phone: str\n    language: str\n")
    replace(project / "tests/support.py", '{"name": name, ', '{"name": name, "phone": "1", ')
    replace(
        project / "tests/routers/test_users.py",
        '"created_at", *ADA',
        '"created_at", "language", *ADA',
    )
    for page in project.glob("docs/*.md"):  # the examples are part of the team's code
        page.write_text(page.read_text().replace("User(name=", 'User(phone="1", name='))
    add_revision(
        project,
        "b1_add_language_and_phone",
        """    language = sa.Column("language", sa.String(10), server_default="en", nullable=False)
    with op.batch_alter_table("users") as table:
        table.add_column(language)
        table.add_column(sa.Column("phone", sa.String(20), nullable=True))
    users = sa.table("users", sa.column("id", sa.Uuid), sa.column("phone"))
    connection = op.get_bind()
    for id_ in connection.scalars(sa.select(users.c.id)).all():
        phone = sa.update(users).where(users.c.id == id_).values(phone=f"{id_.int:.3e}")
        connection.execute(phone)
    with op.batch_alter_table("users") as table:
        table.alter_column("phone", existing_type=sa.String(20), nullable=False)
    op.create_index("ix_users_lower_email", "users", [sa.text("lower(email)")])
""",
        """    op.drop_index("ix_users_lower_email", "users")
    with op.batch_alter_table("users") as table:
        table.drop_column("phone")
        table.drop_column("language")
""",
    )


# Edits of databases


def add_database(project: Path) -> None:
    """The database `logging` with a table, as the README says."""
    assert follow(project, "Add a database") == 5
    kustomization = project / "deploy/base/kustomization.yaml"
    write(kustomization, kustomization.read_text().replace("POOL_SIZE=2", "POOL_SIZE=1"))
    write(
        project / "app/models/entry.py",
        '''"""Entries, in the logging database."""

from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import LoggingBase


class Entry(LoggingBase):
    __tablename__ = "entries"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
''',
    )
    append(project / "app/models/__init__.py", "from app.models.entry import Entry as Entry\n")
    write(
        project / "app/routers/entries.py",
        '''"""Routes of entries."""

from fastapi import APIRouter, status
from sqlalchemy import select

from app.dependencies import LoggingSessionDep
from app.models import Entry

router = APIRouter(prefix="/entries")


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_entry(text: str, session: LoggingSessionDep) -> None:
    session.add(Entry(text=text))


@router.get("")
async def list_entries(session: LoggingSessionDep) -> list[str]:
    return list(await session.scalars(select(Entry.text)))
''',
    )
    register(
        project, "from app.routers.entries import router as entries", "app.include_router(entries)"
    )
    write(
        project / "tests/routers/test_entries.py",
        """from httpx2 import AsyncClient


async def test_entry_is_stored(client: AsyncClient) -> None:
    assert (await client.post("/entries?text=started")).status_code == 201
    assert (await client.get("/entries")).json() == ["started"]
""",
    )


def add_database_with_revision(project: Path) -> None:
    """`add_database`, with the revision that `make revision` would write."""
    add_database(project)
    write(
        project / "app/migrations/logging/20270101_c1_create_entries.py",
        '''"""create entries"""

import sqlalchemy as sa
from alembic import op

revision: str = "c1"
down_revision: str | None = None


def upgrade() -> None:
    op.create_table(
        "entries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_entries")),
    )


def downgrade() -> None:
    op.drop_table("entries")
''',
    )


def remove_events(project: Path) -> None:
    """The events, the report and their database, as the README says."""
    text = section(project, "Remove the events")
    [files] = re.findall(r"(?:^ {4}rm .*\n)+", text, re.M)
    subprocess.run(["sh", "-ec", files], check=True, cwd=project)
    [names] = re.findall(r"^1\. (.*?): search", text, re.M | re.DOTALL)
    for name in re.findall(r"`([^`]+)`", names):
        path = project / name
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if not NAMED.search(line)]
        assert kept != lines, f"{name} does not mention them"
        path.write_text("".join(kept))
    base = project / "app/models/base.py"
    base.write_text(
        re.sub(r"class AnalyticsBase.*?\n\n\n", "", base.read_text(), flags=re.DOTALL).replace(
            '    "analytics": AnalyticsBase.metadata,\n', ""
        )
    )
    aliases = project / "app/dependencies.py"
    aliases.write_text(
        re.sub(
            r"^Analytics\w+ = Annotated\[(.*?\n\]|.*\])\n",
            "",
            aliases.read_text(),
            flags=re.DOTALL | re.M,
        )
    )
    compose = project / "compose.yaml"
    server = r"^  postgres-analytics:.*?\n\n"
    entry = r"^ +postgres-analytics:\n +condition:.*?\n"
    text = re.sub(f"{server}|{entry}", "", compose.read_text(), flags=re.DOTALL | re.M)
    lines = text.splitlines(keepends=True)
    compose.write_text("".join(line for line in lines if not NAMED.search(line)))
    assert "nalytics" not in base.read_text() + aliases.read_text()


EDITS: list[Edit] = [
    *(add_security, add_cors, add_greeting, add_middleware, extend_lifespan, change_prefix),
    *(add_orders, rename_column, add_required_columns),
    *(add_database_with_revision, remove_events),
]
