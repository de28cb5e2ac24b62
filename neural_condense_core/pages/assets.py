"""Files of a page as routes, and the headers that they and the page's data come with.

Where it sits: ``gateway/playground.py`` and ``dashboard/app.py`` serve their own files by it, and
with them the shared ones of this folder: one stylesheet, which holds every colour, and one script.

Design decisions

* A page is whole by itself: its Content-Security-Policy allows files of its own origin alone, no
  inline code or style, no frame around it, and no text that becomes markup (trusted types).
* Files are read once, when the application is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

HTML = "text/html; charset=utf-8"
CSS = "text/css; charset=utf-8"
JS = "text/javascript; charset=utf-8"

SHARED = {"/page.css": ("page.css", CSS), "/elements.js": ("elements.js", JS)}
"""Path -> (file in this folder, media type), as every page asks for them."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_assets(app: FastAPI, folder: str, assets: Mapping[str, tuple[str, str]]) -> None:
    """Add a page's own files and the shared ones to an application.

    Parameters
    ----------
    app : that serves the page
    folder : package whose ``pages`` folder holds the page's own files
    assets : path -> (file, media type) of these
    """
    own = files(folder) / "pages"
    shared = files(__package__ or __name__)
    for place, found in ((own, assets), (shared, SHARED)):
        for path, (name, media_type) in found.items():
            endpoint = _asset((place / name).read_bytes(), media_type)
            app.add_api_route(path, endpoint, include_in_schema=False, response_class=Response)


def _asset(body: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def asset() -> Response:
        return Response(body, media_type=media_type, headers=HEADERS)

    return asset
