"""The web page: a call from a browser. Plain files of the package; `page.json` tells them about the server."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, JSONResponse

_FOLDER = Path(__file__).with_name("page")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_HEADERS = {
    # The page loads nothing from elsewhere, runs no script but its own and talks to its own server only.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI, model: str, needs_token: bool) -> None:
    """Serve the page at `/` and its files beside it."""
    files = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _TYPES}

    @app.get("/")
    async def page() -> Response:
        """The page. A list of files, not a folder, is what can be asked for."""
        return _file(files["index.html"])

    @app.get("/page.json")
    async def about() -> Response:
        """What the page shows before a call."""
        return JSONResponse({"model": model, "token": needs_token}, headers=_HEADERS)

    @app.get("/{name}")
    async def file(name: str) -> Response:
        """A style or a script."""
        return (
            _file(files[name]) if name in files else Response("there is no such page\n", 404, media_type="text/plain")
        )


def _file(path: Path) -> Response:
    return FileResponse(path, media_type=_TYPES[path.suffix], headers=_HEADERS)
