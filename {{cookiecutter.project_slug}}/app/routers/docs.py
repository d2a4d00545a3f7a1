"""The API docs at /docs. The service itself serves its scripts and styles: no CDN is needed."""

from base64 import b64encode
from hashlib import sha256

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

router = APIRouter(prefix="/docs", include_in_schema=False)

# Not mounted: behind a proxy that strips the app's `root_path`, a mount finds no file.
swagger_ui = StaticFiles(packages=[("fastapi_swagger", "resources")])

# To let "Try it out" or "Authorize" reach another host, add it to connect-src.
POLICY = (
    "default-src 'none'; base-uri 'none'; connect-src 'self'; form-action 'none'; "
    "frame-ancestors 'none'; img-src 'self' data:; script-src 'self' 'sha256-{}'; "
    "style-src 'self' 'unsafe-inline'"
)


@router.get("")
async def show_page(request: Request) -> HTMLResponse:
    app: FastAPI = request.app
    root = request.scope.get("root_path", "").rstrip("/")
    page = get_swagger_ui_html(
        openapi_url=f"{root}{app.openapi_url}",
        title=app.title,
        swagger_js_url=f"{root}/docs/swagger-ui-bundle.js",
        swagger_css_url=f"{root}/docs/swagger-ui.css",
        swagger_favicon_url=f"{root}/docs/favicon-32x32.png",
        oauth2_redirect_url=f"{root}/docs/oauth2-redirect",
        init_oauth=app.swagger_ui_init_oauth,
        swagger_ui_parameters=app.swagger_ui_parameters,
    )
    script = bytes(page.body).rpartition(b"<script>")[2].partition(b"</script>")[0]
    digest = b64encode(sha256(script).digest()).decode()
    page.headers["Content-Security-Policy"] = POLICY.format(digest)
    return page


@router.get("/oauth2-redirect")
async def end_sign_in() -> HTMLResponse:
    return get_swagger_ui_oauth2_redirect_html()


@router.get("/{name}")
async def send_file(name: str, request: Request) -> Response:
    return await swagger_ui.get_response(name, request.scope)
