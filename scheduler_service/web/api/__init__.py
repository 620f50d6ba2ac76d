"""`/api/v1`: what the commands show and ask for, for scripts.

    reading    status jobs runs leadership replicas next; open, or with http.read_token
    asking     trigger pause resume cancel resign; with http.token only
    openapi    the description of all of it

Each answer is made on a thread of the pool: whoever asks for much holds up nobody else.
"""

from scheduler_service.web.api.asking import asking_routes
from scheduler_service.web.api.openapi import openapi_routes
from scheduler_service.web.api.reading import reading_routes

__all__ = ["asking_routes", "openapi_routes", "reading_routes"]
