"""A chat with a page: rooms, names, who is there; by WebSocket or, where there is none, by polls.

Run it from the top of the project:

    trioloop serve examples/chat.py:app

or with ``hypercorn -k trio examples/chat.py:app``. Then open http://127.0.0.1:8000 in two windows.
Without a browser:

    curl -d "" "http://127.0.0.1:8000/rooms/trio?name=ann"
    curl "http://127.0.0.1:8000/rooms/trio?session=<the session>&after=0"
    curl -d "hello" "http://127.0.0.1:8000/rooms/trio?session=<the session>"
"""

from dataclasses import dataclass

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from trioloop import (
    App,
    Conversation,
    Joined,
    Left,
    Limits,
    NameTaken,
    Outcome,
    Rate,
    Reply,
    Send,
)

PAGE = """<!doctype html>
<meta charset="utf-8">
<title>trioloop chat</title>
<style>
  body { font: 16px system-ui; max-width: 40em; margin: 2em auto }
  #said { height: 20em; overflow: auto; border: 1px solid #ccc; padding: .5em }
  .note { color: #888 }
  input { font: inherit; width: 100%; box-sizing: border-box; margin-top: .5em }
</style>
<h1>Chat</h1>
<div id="said"></div>
<form><input autofocus autocomplete="off" placeholder="Say something"></form>
<script>
  const name = prompt("Your name?") || "somebody";
  const said = document.querySelector("#said"), input = document.querySelector("input");
  const address = location.href.replace(/^http/, "ws") + "rooms/lobby?name=" + encodeURIComponent(name);
  const show = (text, kind = "") => {
    const line = said.appendChild(document.createElement("div"));
    line.textContent = text;
    line.className = kind;
    said.scrollTop = said.scrollHeight;
  };
  const socket = new WebSocket(address);
  socket.onmessage = ({data}) => {
    const {who, text, note} = JSON.parse(data);
    note ? show(note, "note") : show(who + ": " + text);
  };
  socket.onclose = ({code, reason}) => show("closed: " + code + " " + reason, "note");
  document.querySelector("form").onsubmit = event => {
    event.preventDefault();
    if (input.value) socket.send(input.value);
    input.value = "";
  };
</script>
"""


@dataclass(frozen=True)
class Said:
    """Message: somebody has said something."""

    who: str
    text: str


class Room(Conversation[Said | Joined | Left]):
    """One member of a room."""

    max_message_size = 2000
    max_rate = Rate(messages=5, burst=4)

    name: str
    room: str

    def init(self, request: HTTPConnection) -> Outcome:
        """Take a name in the room, and say who is there."""
        self.room = request.path_params["room"]
        self.name = request.query_params.get("name", "")[:30]
        if not self.name:
            return Reply(400, "ask for /rooms/<room>?name=<your name>")
        try:
            self.register((self.room, self.name))
        except NameTaken:
            return Reply(409, f"{self.name} is here already")
        others = [member.meta for member in self.watch(self.room)]
        self.join(self.room, meta=self.name)
        return Send.json({"note": f"here: {', '.join([*others, self.name])}"})

    def receive(self, data: str | bytes) -> None:
        """Tell all in the room."""
        if isinstance(data, str):
            self.hub.broadcast(self.room, Said(self.name, data))

    def info(self, message: Said | Joined | Left) -> Outcome:
        """Tell the member what is said, and who comes and goes."""
        match message:
            case Said(who, text):
                return Send.json({"who": who, "text": text})
            case Joined(meta=who):
                return None if who == self.name else Send.json({"note": f"{who} has come"})
            case Left(meta=who):
                return Send.json({"note": f"{who} has gone"})


async def page(_request: Request) -> HTMLResponse:
    """The page."""
    return HTMLResponse(PAGE)


app = App([Route("/", page)], limits=Limits(handlers=1000))
app.route("/rooms/{room}", Room)
