"""Server-sent events: a feed that a client can leave and come back to.

Run it from the top of the project:

    trioloop serve examples/event_stream.py:app

or with ``hypercorn -k trio examples/event_stream.py:app``. Then, in two terminals:

    curl -N http://127.0.0.1:8000/feed
    curl -d "first" http://127.0.0.1:8000/publish

End the first ``curl``, publish once more, and go on after number 1:

    curl -d "second" http://127.0.0.1:8000/publish
    curl -N -H "Last-Event-ID: 1" http://127.0.0.1:8000/feed

``http://127.0.0.1:8000/feed?last_event_id=0`` gives all that is kept.
"""

from collections import deque
from dataclasses import dataclass

from starlette.requests import Request

from trioloop import App, EventStreamHandler, LoopHandler, Outcome, Reply, ServerSentEvent


@dataclass(frozen=True)
class Entry:
    """Message: one entry of the feed."""

    number: int
    text: str


class Feed:
    """The newest entries. A restart of the server empties it, and numbers start anew."""

    def __init__(self, size: int) -> None:
        self.entries: deque[Entry] = deque(maxlen=size)
        self.last = 0

    def add(self, text: str) -> Entry:
        """Give the text the next number."""
        self.last += 1
        entry = Entry(self.last, text)
        self.entries.append(entry)
        return entry

    def after(self, number: int) -> list[Entry] | None:
        """The entries after this one; `None` when they are not all there any more."""
        if not self.last - len(self.entries) <= number <= self.last:
            return None
        return [entry for entry in self.entries if entry.number > number]


app = App()
feed = Feed(1000)


@app.route("/feed")
class Reader(EventStreamHandler[Entry]):
    """All that is published from now on, after what the client has missed."""

    retry = 2000

    def init(self, request: Request) -> Outcome:
        """Join first, then look at the feed: with no ``await`` in between nothing gets lost."""
        self.join("readers")
        if self.last_event_id is None:
            return None
        number = int(self.last_event_id) if self.last_event_id.isdecimal() else -1
        missed = feed.after(number)
        if missed is None:
            return ServerSentEvent("start over: not all that you missed is there", event="gap")
        return [self.event_of(entry) for entry in missed]

    def info(self, message: Entry) -> Outcome:
        """Write what was published."""
        return self.event_of(message)

    def event_of(self, entry: Entry) -> ServerSentEvent:
        """The entry's number is the event's id: what a client says when it comes back."""
        return ServerSentEvent(entry.text, id=str(entry.number))


@app.route("/publish", methods=("POST",))
class Publish(LoopHandler):
    """Adds the body to the feed."""

    async def init(self, request: Request) -> Reply:
        """Keep it, then tell all who read."""
        entry = feed.add((await request.body()).decode(errors="replace"))
        self.hub.broadcast("readers", entry)
        return Reply(200, f"number {entry.number}\n")
