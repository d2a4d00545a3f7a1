"""Routes of health: what a load balancer, Kubernetes or a person asks before they send work."""

from fastapi import APIRouter

from app.dependencies import HealthDep
from app.schemas.health import Health

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live")
async def live() -> Health:
    """The process answers. It touches nothing else: to start it anew would help no database."""
    return Health()


@router.get("/ready")
async def ready(health: HealthDep) -> Health:
    """Every database can be used, and the service is not about to stop."""
    return Health(databases=await health.of_all())


@router.get("/{database}")
async def database(database: str, health: HealthDep) -> Health:
    """This database can be used."""
    return Health(databases=await health.of(database))
