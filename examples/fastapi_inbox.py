"""FastAPI: dependencies first, then a handler as the response.

``pip install fastapi``, then run it from the top of the project:

    trioloop serve examples/fastapi_inbox.py:app

or with ``hypercorn -k trio examples/fastapi_inbox.py:app``. Ada waits for a message and gets one:

    curl -i -H "X-User: ada" http://127.0.0.1:8000/inbox
    curl --json '{"to": "ada", "text": "hello"}' http://127.0.0.1:8000/messages

A POST whose answer is a stream, after FastAPI has read and checked its body:

    curl -N --json '{"start": 3}' http://127.0.0.1:8000/countdown
"""

from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Response
from pydantic import BaseModel, Field
from starlette.requests import Request

from trioloop import (
    EventStreamHandler,
    Hub,
    LoopHandler,
    Outcome,
    Reply,
    SendAfter,
    ServerSentEvent,
    Stop,
)

hub = Hub()
app = FastAPI(lifespan=hub.lifespan)


class Note(BaseModel):
    """Body of ``POST /messages``."""

    to: str
    text: str


class Countdown(BaseModel):
    """Body of ``POST /countdown``."""

    start: int = Field(ge=0, le=60)


def current_user(x_user: Annotated[str | None, Header()] = None) -> str:
    """Who asks; a real application would look at a session."""
    if x_user is None:
        raise HTTPException(401, "say who you are in X-User")
    return x_user


class Inbox(LoopHandler[Note]):
    """Waits for one message to a user."""

    idle_timeout = 20.0

    def __init__(self, user: str) -> None:
        self.user = user

    def init(self, request: Request) -> None:
        """Be found by those who send to this user."""
        self.join(("inbox", self.user))

    def info(self, message: Note) -> Reply:
        """Answer with it."""
        return Reply.json({"text": message.text})


class Counter(EventStreamHandler[int]):
    """Counts down, one number a second."""

    methods = ("POST",)  # the default of event streams is GET and HEAD

    def __init__(self, start: int) -> None:
        self.start = start

    def init(self, request: Request) -> Outcome:
        """The first number at once."""
        return SendAfter(0, self.start)

    def info(self, message: int) -> Outcome:
        """One number, and the next one later."""
        if message == 0:
            return [ServerSentEvent("lift-off"), Stop()]
        return [ServerSentEvent(str(message)), SendAfter(1, message - 1)]


@app.get("/inbox")
async def inbox(user: Annotated[str, Depends(current_user)]) -> Response:
    """The dependency has run by now: the handler starts when FastAPI sends the response."""
    return hub.response(Inbox(user))


@app.post("/messages")
async def send(note: Note) -> dict[str, int]:
    """An ordinary route that reaches the handlers through the hub."""
    return {"reached": hub.broadcast(("inbox", note.to), note)}


@app.post("/countdown")
async def countdown(wish: Countdown) -> Response:
    """The body is read; the handler gets what was in it."""
    return hub.response(Counter(wish.start))
