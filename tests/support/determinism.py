"""One scenario with everything that could differ from run to run, as text.

``python tests/support/determinism.py 20`` plays it 20 times and prints, for every different text,
its hash and how often it came.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from typing import Any, Final

import trio

from trioloop import (
    App,
    EventStreamHandler,
    LoopHandler,
    Postpone,
    Reply,
    SendAfter,
    ServerSentEvent,
    StartResponse,
    Stop,
)
from trioloop.testing import Simulation

SEED: Final = 7


class Poll(LoopHandler[str]):
    """Works, and answers the second time."""

    idle_timeout = 8.0

    def init(self, request: Any) -> Any:
        self.join("all", meta=request.query_params["who"])
        self.register(request.query_params["who"])

    async def info(self, message: str) -> Any:
        for _ in range(len(message) % 3):
            await trio.lowlevel.checkpoint()
        self.hub.broadcast("streams", f"{message} from {self.request.query_params['who']}")
        return Reply(200, message) if message == "answer" else None


class Stream(EventStreamHandler[Any]):
    """Says what it hears, later too."""

    keepalive = 3.0

    def init(self, request: Any) -> Any:
        self.join("streams")
        self.watch("all")
        return [StartResponse(200, {"x-who": request.query_params["who"]})]

    def info(self, message: Any) -> Any:
        event = ServerSentEvent(str(message), id=str(len(str(message))))
        if message == "postpone":
            return Postpone()
        return [event, SendAfter(1.5, "later", key="later")] if message != "later" else event

    async def idle(self) -> Any:
        await trio.lowlevel.checkpoint()
        return Stop()


def make_app() -> App:
    app = App()
    app.route("/poll", Poll)
    app.route("/events", Stream)
    return app


def tell_all() -> str:
    """Play the scenario: what clients saw, who did what, and the order of tasks."""
    with Simulation(make_app(), seed=SEED, schedule=SEED, laws=True) as sim:
        polls = [sim.get(f"/poll?who={who}") for who in ("ann", "bob", "eve")]
        streams = [sim.sse(f"/events?who={number}") for number in range(5)]
        streams[0].stall(10)
        sim.hub.broadcast("all", "hi")
        sim.hub.broadcast("streams", "one")
        sim.settle()
        sim.ref(streams[1]).burst("a", "postpone", "b", "c")
        for number, poll in enumerate(polls):
            sim.later(2, sim.ref(poll).send_without_settling, "ab" * number)
        sim.advance(1.25)
        streams[0].read(120)
        streams[2].disconnect("abrupt")
        streams[3].disconnect("vanish")
        sim.ref(polls[0]).send_without_settling("answer")
        sim.lag(2)
        streams.append(streams[2].reconnect())
        polls.append(sim.get("/poll?who=joe"))
        sim.advance(4)
        sim.run(ask_everybody, sim)
        sim.advance_to_next_deadline()
        streams[0].resume()
        sim.shut_down(2)
    seen = [exchange.transcript for exchange in (*polls, *streams)]
    letters = [(str(ref), message, cause) for ref, message, cause in sim.dead_letters]
    parts = [*seen, letters, *sim.journal, sorted(sim.schedule.plan.items())]
    return "\n".join(map(repr, parts))


async def ask_everybody(sim: Simulation) -> None:
    """Several tasks, ready at the same time."""
    async with trio.open_nursery() as nursery:
        for member in sim.hub.members("streams"):
            nursery.start_soon(member.ref.send, f"dear {member.ref.id}")


def count(runs: int) -> dict[str, int]:
    """How often each text came."""
    texts = (tell_all().encode() for _ in range(runs))
    return Counter(hashlib.sha256(text).hexdigest() for text in texts)


if __name__ == "__main__":
    print(json.dumps(count(int(sys.argv[1]))))
