"""Routes for reports, which read both databases."""

from fastapi import APIRouter

from app.dependencies import AnalyticsReadSessionDep, ReadSessionDep
from app.schemas.page import After, Limit, Page
from app.schemas.report import UserActivity
from app.services.report import ReportService

router = APIRouter(prefix="/analytics/report", tags=["analytics"])


@router.get("")
async def report_activity(
    session: ReadSessionDep,
    analytics_session: AnalyticsReadSessionDep,
    limit: Limit = 50,
    after: After = None,
) -> Page[UserActivity]:
    return await ReportService(session, analytics_session).page(limit, after)
