"""Routes of reports, which read both databases."""

from fastapi import APIRouter

from app.dependencies import ReportReaderDep
from app.schemas.page import After, Limit, Page
from app.schemas.report import UserActivity

router = APIRouter(prefix="/analytics/report", tags=["analytics"])


@router.get("")
async def report_activity(
    reports: ReportReaderDep, limit: Limit = 50, after: After = None
) -> Page[UserActivity]:
    return await reports.page(limit, after)
