"""The demonstration behind ``trioloop demo``: one wall, seen by a long poll and by an event stream.

Laws of this file:

* It uses what every user has: the public names, and nothing else but the standard library.
* It loads nothing from elsewhere, and what visitors say never becomes markup.
"""

from __future__ import annotations

import shlex
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, final

from . import (
    App,
    Commands,
    EventStreamHandler,
    LoopHandler,
    Outcome,
    Reply,
    SendAfter,
    ServerSentEvent,
)

EVERYBODY: Final = "everybody"
"""The group of all who wait for what is said."""

MAX_TEXT: Final = 1000
"""Bytes that one visitor may say at once."""


@final
@dataclass(frozen=True, slots=True)
class Said:
    """Message: somebody has said something."""

    number: int
    text: str


@final
@dataclass(frozen=True, slots=True)
class Tick:
    """Message to oneself: show the time."""


class Wall:
    """The last things that were said, so that a stream can go on where it was cut.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int) -> None:
        self._said: deque[Said] = deque(maxlen=size)
        self._last = 0

    def write(self, text: str) -> Said:
        """Number what was said, and keep it."""
        self._last += 1
        said = Said(self._last, text)
        self._said.append(said)
        return said

    def since(self, number: int) -> tuple[Said, ...]:
        """What was said after this number, as far as it is kept."""
        return tuple(said for said in self._said if said.number > number)

    def has_all_since(self, number: int) -> bool:
        """Whether all of it is kept."""
        oldest = self._said[0].number if self._said else self._last + 1
        return number + 1 >= oldest


app = App()
wall = Wall(100)


@app.route("/", methods=("GET", "HEAD"))
class Page(LoopHandler):
    """The page: answered at once."""

    def init(self, request: object) -> Outcome:
        return Reply(200, PAGE, media_type="text/html; charset=utf-8")


@app.route("/poll", methods=("GET",))
class Poll(LoopHandler[Said]):
    """Waits for one message and answers with it; 204 after a silent minute."""

    idle_timeout = 60.0

    def init(self, request: object) -> Outcome:
        self.join(EVERYBODY)
        return None

    def info(self, message: Said) -> Outcome:
        return Reply(200, f"{message.text}\n")


@app.route("/events")
class Events(EventStreamHandler[Said | Tick]):
    """Shows the time every second, and everything that is said."""

    retry = 1000

    def init(self, request: object) -> Outcome:
        self.join(EVERYBODY)  # nothing can be said between this line and the next
        return [*self.missed(), SendAfter(0, Tick())]

    def info(self, message: Said | Tick) -> Outcome:
        match message:
            case Tick():
                now = time.strftime("%H:%M:%S")
                return [ServerSentEvent(now, event="time"), SendAfter(1, Tick())]
            case Said():
                return self.event_of(message)

    def missed(self) -> list[ServerSentEvent]:
        """What was said while the client was away; nothing for one that is new."""
        if self.last_event_id is None:
            return []
        run, _, number = self.last_event_id.rpartition(".")
        same_run = run == self.hub.id and number.isdecimal() and len(number) < 20
        last = int(number) if same_run else 0
        events = [self.event_of(said) for said in wall.since(last)]
        if not same_run or not wall.has_all_since(last):
            events.insert(0, ServerSentEvent("some messages may be missing here", event="gap"))
        return events

    def event_of(self, said: Said) -> ServerSentEvent:
        """The id names this run of the server, too: numbers of another one mean nothing here."""
        return ServerSentEvent(said.text, event="said", id=f"{self.hub.id}.{said.number}")


@app.route("/say", methods=("GET", "POST"))
class Say(LoopHandler):
    """Tells everybody: the body of a POST, or ``?text=``."""

    async def init(self, request: object) -> Commands:
        text = self.request.query_params.get("text") or await self.read_text()
        if text is None or len(text.encode()) > MAX_TEXT:
            return Reply(413, f"say it in {MAX_TEXT} bytes\n")
        if not text.strip():
            return Reply(400, "say something: a POST with a body, or GET /say?text=hello\n")
        heard = self.hub.broadcast(EVERYBODY, wall.write(text))
        return Reply(200, f"heard by {heard}\n")

    async def read_text(self) -> str | None:
        """The body as text, `None` when it is too long."""
        body = b""
        async for piece in self.request.stream():
            body += piece
            if len(body) > MAX_TEXT:
                return None
        return body.decode(errors="replace")


def banner(url: str) -> str:
    """What to print once the demonstration is being served.

    Args:
        url: where, such as ``http://127.0.0.1:8000``.
    """
    url = url.rstrip("/")
    events, poll, say = (shlex.quote(f"{url}/{path}") for path in ("events", "poll", "say"))
    return f"""\
The trioloop demo is at {url}

Open it in a browser, or try it in three terminals:

  curl -N {events}
  curl -i {poll}
  curl -d hello {say}

The first shows a clock, the second waits, and the third gives both of them a message.
Ctrl-C ends the demo.
"""


PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>trioloop demo</title>
<link rel="icon" href="data:,">
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
  main { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 2rem }
  form { display: flex; gap: .5rem; margin: 1.5rem 0 0 }
  input { flex: 1; font: inherit; padding: .3rem .5rem }
  button { font: inherit }
  .state { background: #8882; border-radius: .3rem; padding: .3rem .6rem }
  ol { list-style: none; padding: 0; font-family: ui-monospace, monospace; font-size: .85rem }
  li { border-bottom: 1px solid #8884; padding: .15rem 0; overflow-wrap: anywhere }
  :root { color-scheme: light dark }
</style>
<h1>trioloop demo</h1>
<p>This page has two requests open at the server. Each is a <em>handler</em> that waits on its
mailbox. Say something: it becomes a message in both mailboxes, and in those of every other visitor.
Open this page twice to see it.</p>
<form id="form">
  <input id="text" maxlength="250" placeholder="Say something" aria-label="What to say" autofocus>
  <button>Say it</button>
</form>
<p id="heard" role="status">&nbsp;</p>
<main>
  <section>
    <h2>Long poll</h2>
    <p>The browser asks <code>/poll</code>. The answer comes when there is a message, or is an empty
    204 after a silent minute. Then the browser asks again. What is said in between is missed.</p>
    <p class="state" id="poll-state"></p>
    <ol id="poll-log"></ol>
  </section>
  <section>
    <h2>Event stream</h2>
    <p>The browser asks <code>/events</code> once, and the answer goes on. Stop the server and start
    it again: the browser comes back by itself and names the last event that it saw, so nothing that
    the server still has is missed.</p>
    <p class="state"><span id="events-state"></span> <strong id="clock"></strong></p>
    <ol id="events-log"></ol>
  </section>
</main>
<script>
"use strict";
const at = (id) => document.getElementById(id);
const show = (id, text) => { at(id).textContent = text; };
const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

function log(id, text) {
  const line = document.createElement("li");
  line.textContent = new Date().toLocaleTimeString() + "  " + text;
  at(id).prepend(line);
  while (at(id).children.length > 50) at(id).lastChild.remove();
}

async function poll() {
  for (let number = 1; ; number++) {
    show("poll-state", `Request ${number} is waiting for a message.`);
    try {
      const response = await fetch("poll", { cache: "no-store" });
      if (response.status === 200) {
        log("poll-log", "200: " + await response.text());
      } else if (response.status === 204) {
        log("poll-log", "204: nobody said anything for a minute");
      } else {
        const seconds = Number(response.headers.get("retry-after")) || 2;
        log("poll-log", `${response.status}: the server has no answer now`);
        show("poll-state", `Asking again in ${seconds} s.`);
        await pause(seconds);
      }
    } catch (error) {
      show("poll-state", "The connection was lost. Asking again in 2 s.");
      await pause(2);
    }
  }
}

function listen(lastId) {
  const source = new EventSource(
    "events" + (lastId ? "?last_event_id=" + encodeURIComponent(lastId) : ""));
  source.onopen = () => show("events-state", "The stream is open.");
  source.onerror = () => {
    show("clock", "");
    if (source.readyState === EventSource.CONNECTING) {
      show("events-state", "The stream has ended. The browser is coming back by itself.");
    } else {  // some browsers give up when nobody answers: then this page comes back
      show("events-state", "The browser has given up. This page tries again in 2 s.");
      setTimeout(() => listen(lastId), 2000);
    }
  };
  source.addEventListener("time", (event) => show("clock", event.data));
  source.addEventListener("gap", (event) => log("events-log", event.data));
  source.addEventListener("said", (event) => {
    lastId = event.lastEventId;
    log("events-log", event.data);
  });
}

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = at("text").value;
  at("text").value = "";
  try {
    const response = await fetch("say", { method: "POST", body: text });
    show("heard", await response.text());
  } catch (error) {
    show("heard", "Nobody heard it: the server does not answer.");
  }
});

poll();
listen(null);
</script>
</html>
"""
