"""Routes for liveness and readiness probes."""

from fastapi import APIRouter

from app.dependencies import HealthDep
from app.schemas.health import Health

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def live() -> Health:
    """The process responds. No database is checked: restarting the process would not help it."""
    return Health()


@router.get("/ready")
async def ready(health: HealthDep) -> Health:
    """Every database can be used, and the service is not about to stop."""
    return Health(databases=await health.check_all())


@router.get("/{database}")
async def database(database: str, health: HealthDep) -> Health:
    """This database can be used."""
    return Health(databases=await health.check(database))
