"""Handlers that know each other: names, groups, calls and monitors.

Run it from the top of the project:

    trioloop serve examples/notifications.py:app

or with ``hypercorn -k trio examples/notifications.py:app``. Ada opens her inbox, and a second one
is refused:

    curl -N http://127.0.0.1:8000/inbox/ada
    curl -i http://127.0.0.1:8000/inbox/ada

In another terminal: a message to her, one to all, and a question to her handler:

    curl -d "hello Ada" http://127.0.0.1:8000/notify/ada
    curl -d "hello all" http://127.0.0.1:8000/notify
    curl http://127.0.0.1:8000/status/ada

This one waits; end Ada's ``curl``, and it says how her handler has ended:

    curl http://127.0.0.1:8000/wait/ada
"""

from dataclasses import dataclass

import trio
from starlette.requests import Request

from trioloop import (
    App,
    Call,
    Down,
    EventStreamHandler,
    HandlerEnded,
    LoopHandler,
    NameTaken,
    Outcome,
    Reply,
    ServerSentEvent,
    TerminateReason,
)

app = App()


@dataclass(frozen=True)
class Note:
    """Message: show this to the user."""

    text: str


@app.route("/inbox/{user}")
class Inbox(EventStreamHandler[Note | Call[str]]):
    """A user's open inbox. It has a name, so that it can be found, and there is one of it."""

    notes = 0

    def init(self, request: Request) -> Outcome:
        """Take the user's name, then join the group of all inboxes."""
        user = request.path_params["user"]
        try:
            self.register(("inbox", user))
        except NameTaken:
            return Reply(409, f"{user} has an inbox open\n")
        self.join("inboxes", meta=user)
        return ServerSentEvent(f"welcome, {user}")

    def info(self, message: Note | Call[str]) -> Outcome:
        """Show a note; answer a call."""
        match message:
            case Note(text):
                self.notes += 1
                return ServerSentEvent(text, event="note", id=str(self.notes))
            case Call(message="status"):
                message.reply({"notes": self.notes})
            case Call():
                message.reply(None)
        return None

    def terminate(self, reason: TerminateReason) -> None:
        """Runs whatever has ended the handler; the name is free by now."""
        print(f"an inbox with {self.notes} notes has ended: {reason}")


@app.route("/notify/{user}", methods=("POST",))
class NotifyOne(LoopHandler):
    """Sends to the holder of a name."""

    async def init(self, request: Request) -> Reply:
        """Find it, then send."""
        note = Note((await request.body()).decode(errors="replace"))
        ref = self.hub.whereis(("inbox", request.path_params["user"]))
        if ref is None or not ref.send_nowait(note):
            return Reply(404, "no inbox is open\n")
        return Reply(200, "sent\n")


@app.route("/notify", methods=("POST",))
class NotifyAll(LoopHandler):
    """Sends to a group."""

    async def init(self, request: Request) -> Reply:
        """Send, and say whom it reached."""
        note = Note((await request.body()).decode(errors="replace"))
        self.hub.broadcast("inboxes", note)
        users = sorted(member.meta for member in self.hub.members("inboxes"))
        return Reply.json({"users": users})


@app.route("/status/{user}", methods=("GET",))
class Status(LoopHandler):
    """Asks another handler."""

    async def init(self, request: Request) -> Reply:
        """Call it, and expect that it may be gone or busy."""
        ref = self.hub.whereis(("inbox", request.path_params["user"]))
        if ref is None:
            return Reply(404, "no inbox is open\n")
        try:
            return Reply.json(await ref.call("status", timeout=1.0))
        except HandlerEnded:
            return Reply(404, "it has just been closed\n")
        except trio.TooSlowError:
            return Reply(503, "it is busy\n")


@app.route("/wait/{user}", methods=("GET",))
class WaitForEnd(LoopHandler[Down]):
    """Watches another handler."""

    idle_timeout = 300.0

    def init(self, request: Request) -> Outcome:
        """Ask to be told."""
        ref = self.hub.whereis(("inbox", request.path_params["user"]))
        if ref is None:
            return Reply(404, "no inbox is open\n")
        self.monitor(ref)
        return None

    def info(self, message: Down) -> Outcome:
        """The other has ended, and its ``terminate`` has run."""
        return Reply(200, f"{message.reason}\n")
