"""Remove the text of the registry from an error of the runtime.

The name of an image decides which server is its registry, so the answer may contain data that only the node can read.
The text of the runtime and the number of an HTTP status stay. Bodies, reason phrases, redirects and the names in a
certificate are removed.

The forms of containerd: core/remotes/docker/errcode.go and pusher.go, core/remotes/errors/errors.go; of CRI-O:
containers/image docker/errors.go and docker/body_reader.go.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

# A status comes as `: 403 Forbidden`; the phrase is from the server as well, and all that follows may be.
_STATUS: Final = re.compile(r"(?:: |status code |status |http )([1-5]\d\d)(?=$|[^\d.])", re.IGNORECASE)
# All that follows one of these is from the server.
_CODES: Final = (
    r"(?:access denied|denied|unauthorized|toomanyrequests|unavailable|unsupported|unknown|blob[ _]unknown|"
    r"name[ _]unknown|name[ _]invalid|manifest[ _]unknown|manifest[ _]invalid|digest[ _]invalid)(?=:)"
)
_SERVER_WORDS: Final = re.compile(
    r"server message|\bbody\b|invalid character|certificate is valid for|malformed mime header|"
    rf"errors:(?!\s*{_CODES})|\b{_CODES}",
    re.IGNORECASE,
)
# Locations, header values and tokens are printed in quotes.
_QUOTED: Final = re.compile(r"\"(?:[^\"\\]|\\.)*\"?", re.DOTALL)
# containerd 2 names the last of several redirects without quotes.
_URL: Final = re.compile(r"https?://[^\s\"]*[^\s\":]", re.IGNORECASE)


def without_server_words(text: str) -> str:
    """`text` up to the text of the registry, with quoted parts and URLs elided."""
    ends = []
    if status := _STATUS.search(text):
        ends.append((status.start(1), _status_line(int(status[1]))))
    if words := _SERVER_WORDS.search(text):
        ends.append((words.start(), words.group()))
    if ends:
        end, last = min(ends)
        text = text[:end] + last
    return _URL.sub('"..."', _QUOTED.sub('"..."', text))


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
