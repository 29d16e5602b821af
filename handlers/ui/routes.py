"""List the routes of the page."""

from __future__ import annotations

from starlette.routing import Route

from handlers.ui.static_files import StaticFiles


def ui_routes() -> list[Route]:
    """What the group `ui` serves."""
    return [Route("/ui/static/{file}", StaticFiles().endpoint, methods=["GET"])]
