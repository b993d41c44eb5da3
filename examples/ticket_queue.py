"""A queue of tickets and the desks that work on them, one ticket at a time each.

Run it from the top of the project:

    trioloop serve examples/ticket_queue.py:app

or with ``hypercorn -k trio examples/ticket_queue.py:app``. Open two desks, each in a terminal; each
says its id:

    curl -N http://127.0.0.1:8000/desk

File two tickets in a third; each desk shows one of them:

    curl -d "the printer burns" "http://127.0.0.1:8000/tickets?urgency=high"
    curl -d "the tea is cold" http://127.0.0.1:8000/tickets

End one ``curl``: its ticket goes back to the queue. Close the other desk's, and it shows that one:

    curl -X POST "http://127.0.0.1:8000/close/<id of the desk>?outcome=solved"

Its first version lost sight of tickets. ``tests/examples/test_ticket_queue.py`` has it, with the
test that finds it, and the last chapter of the tutorial tells the story.
"""

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import MaxLen, MinLen
from starlette.requests import Request

from trioloop import (
    App,
    EventStreamHandler,
    LoopHandler,
    Outcome,
    Reply,
    ServerSentEvent,
    TerminateReason,
)


class Urgency(enum.Enum):
    """How long a ticket may wait."""

    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True)
class Ticket:
    """Message: file this in the queue."""

    text: Annotated[str, MinLen(1), MaxLen(80)]
    urgency: Urgency = Urgency.NORMAL


@dataclass(frozen=True)
class Close:
    """Message: the agent is through with the ticket on the desk."""

    outcome: Literal["solved", "refused"]


@dataclass(frozen=True)
class Look:
    """Message: there may be something in the queue."""


class TicketDesk(EventStreamHandler[Ticket | Close | Look]):
    """The desk of one agent."""

    queue: deque[Ticket]
    ticket: Ticket | None = None  # on the desk

    def init(self, request: Request) -> Outcome:
        """Say how this desk is called, then show the first ticket."""
        self.queue = request.app.state.queue
        self.register(self.ref.id)
        self.join("desks")
        return [ServerSentEvent(self.ref.id, event="desk"), *self.take()]

    def info(self, message: Ticket | Close | Look) -> Outcome:
        """File a ticket, or show the next one."""
        match message:
            case Ticket(urgency=Urgency.HIGH):
                self.queue.appendleft(message)
                self.call()
            case Ticket():
                self.queue.append(message)
                self.call()
            case Close() if self.ticket is not None:
                self.ticket = None
                return self.take()
            case Look() if self.ticket is None:
                return self.take()
            case _:
                pass  # no ticket to close, or no room for another
        return None

    def take(self) -> list[ServerSentEvent]:
        """Show the first ticket of the queue, or be free."""
        if not self.queue:
            self.join("free")
            return []
        self.leave("free")
        self.ticket = self.queue.popleft()
        return [ServerSentEvent(self.ticket.text, event="ticket")]

    def call(self) -> None:
        """Let every free desk look; the first to look takes the ticket."""
        self.hub.broadcast("free", Look())

    def terminate(self, reason: TerminateReason) -> None:
        """Put the ticket on the desk back to the front of the queue."""
        if self.ticket is not None:
            self.queue.appendleft(self.ticket)
            self.call()


class File(LoopHandler):
    """Hands a new ticket to any desk."""

    async def init(self, request: Request) -> Reply:
        """Check it, then send it to the first desk that takes it."""
        text = (await request.body()).decode(errors="replace")
        try:
            urgency = Urgency(request.query_params.get("urgency", "normal"))
        except ValueError:
            return Reply(400, "the urgency is normal or high\n")
        if not 1 <= len(text) <= 80:
            return Reply(400, "a ticket has 1 to 80 characters\n")
        desks = self.hub.members("desks")
        if not any(desk.ref.send_nowait(Ticket(text, urgency)) for desk in desks):
            return Reply(503, "no desk is open\n")
        return Reply(202, "filed\n")


class CloseTicket(LoopHandler):
    """Tells a desk that its ticket is closed."""

    def init(self, request: Request) -> Reply:
        """Find the desk by its id."""
        match request.query_params.get("outcome"):
            case "solved" | "refused" as outcome:
                desk = self.hub.whereis(request.path_params["desk"])
                if desk is None or not desk.send_nowait(Close(outcome)):
                    return Reply(404, "this desk is not open\n")
                return Reply(202, "closed\n")
            case _:
                return Reply(400, "the outcome is solved or refused\n")


def make_app(desk: Callable[[], TicketDesk] = TicketDesk) -> App:
    """An application with a queue of its own.

    Args:
        desk: makes the desks.
    """
    app = App()
    app.state.queue = deque[Ticket]()
    app.route("/desk", desk, methods=("GET",))
    app.route("/tickets", File, methods=("POST",))
    app.route("/close/{desk}", CloseTicket, methods=("POST",))
    return app


app = make_app()
