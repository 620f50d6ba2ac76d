"""Where the password stands in the URL of a database, so that nothing of it is taken for something else.

    postgresql://user:password@host:port/name?parameters
                 |---- user --||--- place --|

What follows is shown to people, so a URL that can be read in two ways is refused.
"""

from __future__ import annotations

import re

SECRET_OPTIONS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")

# As SQLAlchemy takes a URL apart: what comes before the first @ is the user's, also with a / or a ? in the password.
_PARTS = re.compile(r"[\w+]+://(?P<user>(?:[^:/]*(?::[^@]*)?@)?)(?P<place>[^?]*)")
_SECRET = re.compile(rf"[?&](?:{'|'.join(SECRET_OPTIONS)})=")


def password_problem(url: str) -> str | None:
    """Return what keeps the password of a PostgreSQL URL from being told apart, without a letter of it; or None."""
    parts = _PARTS.match(url)
    if parts is None:
        return None
    user, place, parameters = parts["user"], parts["place"], url[parts.end() :]
    if "@" in place or (":" in user and "@" in parameters) or _SECRET.search(user + place):
        return (
            "it cannot be told where the password ends: write letters such as @ : / ? # & in it "
            "as %40 %3A %2F %3F %23 %26, and %40 for every @ but the one before the host"
        )
    return None


def has_secret_option(url: str) -> bool:
    """Return whether a parameter is a password: what seems to be the next one may be the rest of it."""
    return _SECRET.search(url) is not None
