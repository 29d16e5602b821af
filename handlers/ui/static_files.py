"""Serve the style sheet and the script of the page, which are read once."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib import resources
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

_SECONDS: Final = 300
"""How long a browser uses a file without asking; after an update of Warmhook it is old for no longer."""


class StaticFiles:
    """The files of `handlers/ui/static/` by name."""

    def __init__(self) -> None:
        folder = resources.files("handlers.ui") / "static"
        self._files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    async def endpoint(self, request: Request) -> Response:
        """Answer with a file; nothing of it depends on the reader."""
        name = request.path_params["file"]
        content = self._files.get(name)
        if content is None:
            return Response(status_code=404)
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"etag": tag, "cache-control": f"max-age={_SECONDS}", "x-content-type-options": "nosniff"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=mimetypes.guess_type(name)[0])
