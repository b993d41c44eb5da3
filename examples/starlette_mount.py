"""Starlette: handlers as routes of an application that is there already.

Run it from the top of the project:

    trioloop serve examples/starlette_mount.py:app

or with ``hypercorn -k trio examples/starlette_mount.py:app``. An ordinary page, a handler as a route
of its own, and one as the endpoint of a route:

    curl http://127.0.0.1:8000/
    curl -i http://127.0.0.1:8000/poll
    curl -N http://127.0.0.1:8000/live

In another terminal, something for both of them:

    curl -X POST "http://127.0.0.1:8000/say?text=hello"
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from trioloop import EventStreamHandler, Hub, LoopHandler, Reply, ServerSentEvent

hub = Hub()


class Poll(LoopHandler[str]):
    """Waits for one message."""

    def init(self, request: Request) -> None:
        """Wait with the others."""
        self.join("everybody")

    def info(self, message: str) -> Reply:
        """Answer with it."""
        return Reply(200, f"{message}\n")


class Live(EventStreamHandler[str]):
    """Shows every message."""

    def init(self, request: Request) -> None:
        """Wait with the others."""
        self.join("everybody")

    def info(self, message: str) -> ServerSentEvent:
        """Show it."""
        return ServerSentEvent(message)


async def home(_request: Request) -> PlainTextResponse:
    """An ordinary page."""
    waiting = len(hub.members("everybody"))
    return PlainTextResponse(f"{waiting} waiting\n")


async def say(request: Request) -> PlainTextResponse:
    """An ordinary route that sends."""
    reached = hub.broadcast("everybody", request.query_params.get("text", "hello"))
    return PlainTextResponse(f"reached {reached}\n")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
    """Your own start and end, around the hub's: handlers may use what you open here."""
    print("open the database")
    async with hub.lifespan(app):
        yield
    print("close the database: every handler has terminated")


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/", home),
        Route("/say", say, methods=["POST"]),
        hub.route("/poll", Poll, idle_timeout=20.0),
        Route("/live", hub.endpoint(Live)),
    ],
)
