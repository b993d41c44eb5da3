"""WebSockets in the kit: both faces, windows, replay, timelines, the machine and its laws."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from trioloop import (
    Accept,
    App,
    Close,
    Continue,
    Disconnected,
    Failed,
    Send,
    ServerSentEvent,
    Stopped,
    TimedOut,
    WebSocketHandler,
)
from trioloop.testing import (
    FakeClients,
    HandlerMachine,
    LawBroken,
    Simulation,
    detached,
    replay,
    script_of,
    sequence_diagram,
    timeline,
    to_test,
)

app = App()


@app.route("/echo/{name}")
class Echo(WebSocketHandler[str]):
    idle_timeout = 60.0
    send_timeout = 5.0

    def init(self, request):
        return Accept(next(iter(request.scope["subprotocols"]), None))

    def receive(self, data):
        return Close(4000, "bye") if data == "bye" else Send(data)

    def info(self, message):
        return Send(message)


@pytest.fixture
def fake_client():
    return FakeClients()


def test_a_client_sends_and_reads_in_a_simulation():
    with Simulation(app, laws=True) as sim:
        websocket = sim.websocket("/echo/ann", subprotocols=("a", "b"))
        assert (websocket.accepted, websocket.status, websocket.subprotocol) == (True, 101, "a")
        websocket.send("text")
        websocket.send(b"bytes")
        sim.ref(websocket).send("message")
        assert websocket.messages == ["text", b"bytes", "message"]
        assert (websocket.transport, websocket.phase) == ("WebSocket", "waiting")
        websocket.send("bye")
        assert (websocket.close_code, websocket.close_reason) == (4000, "bye")
        assert (websocket.complete, websocket.reason) == (True, Stopped())


async def test_a_client_sends_and_reads_in_an_async_test(fake_client):
    async with fake_client(app) as client:
        websocket = await client.websocket("/echo/ann", subprotocols=("a", "b"))
        assert (websocket.accepted, websocket.subprotocol) == (True, "a")
        await websocket.burst("one", "two")
        assert websocket.messages == ["one", "two"]
        await websocket.close(4001)
        assert await websocket.wait_ended() == Disconnected(4001)
        again = await websocket.reconnect()
        await client.advance(60)
        assert (again.reason, again.close_code) == (TimedOut(), 1000)


def test_what_a_client_sends_before_the_answer_waits_for_it():
    class Late(WebSocketHandler):
        async def init(self, request):
            import trio

            await trio.sleep(1)

        def receive(self, data):
            return Send(data)

    late = App()
    late.route("/", Late)
    with Simulation(late, laws=True) as sim:
        websocket = sim.websocket("/")
        websocket.send("early")
        assert (websocket.accepted, websocket.messages) == (False, [])
        sim.advance(1)
        assert (websocket.accepted, websocket.messages) == (True, ["early"])


def test_a_window_counts_the_bytes_of_frames():
    with Simulation(app, worker="stock") as sim:
        websocket = sim.websocket("/echo/ann")
        websocket.stall(10)
        websocket.send("x" * 8)
        assert websocket.phase == "waiting"
        websocket.send("y")
        assert websocket.phase == "sending"
        websocket.read(10)
        assert websocket.messages == ["x" * 8]
        websocket.resume()
        assert websocket.messages == ["x" * 8, "y"]


def test_a_client_that_vanishes_is_given_up():
    with Simulation(app, laws=True) as sim:
        websocket = sim.websocket("/echo/ann")
        websocket.disconnect("vanish")
        sim.advance(10)
        assert websocket.reason is None
        sim.ref(websocket).send("x" * 70_000)
        sim.advance(6)
        assert isinstance(websocket.reason, Failed)


def test_a_foreign_page_is_refused():
    with Simulation(app) as sim:
        assert sim.websocket("/echo/ann", origin="https://evil.example").status == 403
        assert sim.websocket("/echo/ann", origin="http://test").accepted


def test_only_a_websocket_is_closed():
    with Simulation(app) as sim:
        with pytest.raises(RuntimeError, match="no WebSocket"):
            sim.get("/").close()
        websocket = sim.websocket("/echo/ann")
        websocket.close()
        with pytest.raises(RuntimeError, match="left already"):
            websocket.close()


def play(sim):
    websocket = sim.websocket("/echo/ann", subprotocols=("a",), headers={"X-A": "1"})
    websocket.send("one")
    websocket.burst(b"two", "three")
    websocket.stall(3)
    sim.ref(websocket).send("four")
    sim.advance(1.5)
    websocket.resume()
    websocket.close(4000, "enough")


def test_a_run_with_websockets_can_be_replayed_to_the_byte():
    with Simulation(app, seed=3) as sim:
        play(sim)
        transcript = sim._world.exchanges[0].transcript
    again = replay(sim.journal, app, seed=3)
    assert again.error is None
    with Simulation(app, seed=3) as other:
        play(other)
        assert other._world.exchanges[0].transcript == transcript
    assert [(e.time, e.who, e.what) for e in again.journal] == [
        (e.time, e.who, e.what) for e in sim.journal
    ]


def test_the_script_and_the_pasted_test_have_the_verbs_of_a_websocket():
    with Simulation(app) as sim:
        play(sim)
    verbs = [step.verb for step in script_of(sim.journal)]
    assert verbs[0] == "websocket"
    assert {"send", "burst"} <= set(verbs)
    assert verbs[-1] == "close"
    text = to_test(sim.journal)
    assert "websocket('/echo/ann', subprotocols=('a',)" in text.replace('"', "'")
    assert "close(4000, 'enough')" in text.replace('"', "'")


def test_the_timeline_tells_of_messages_and_closes():
    with Simulation(app) as sim:
        play(sim)
    text = timeline(sim.journal)
    assert "asks WebSocket /echo/ann" in text
    assert "receive 'one' -> Send(data='one')" in text
    assert "closes 4000 enough" in text
    assert "sequenceDiagram" in sequence_diagram(sim.journal)


def test_a_detached_handler_is_a_plain_object():
    echo = detached(Echo(), "/echo/ann", path_params={"name": "ann"})
    assert echo.request.path_params == {"name": "ann"}
    assert echo.init(echo.request) == Accept(None)
    assert echo.receive("hi") == Send("hi")


# -- the machine -----------------------------------------------------------------------------------


class Busy(WebSocketHandler[str | Continue]):
    """Does a little of everything."""

    idle_timeout = 2.0
    send_timeout = 3.0
    mailbox_size = 3
    max_message_size = 20

    def init(self, request):
        self.join("room")

    def receive(self, data):
        return Close(4000) if data == "" else [Send(data), Send(data)]

    async def info(self, message):
        import trio

        if isinstance(message, Continue):
            return message
        await trio.sleep(0.5)
        return Send(message)


def drive(handler_class, examples=60):
    machine = type("Machine", (HandlerMachine,), {"handler": handler_class})
    quick = settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
    )
    run_state_machine_as_test(machine, settings=quick)
    return machine


def test_the_machine_drives_websockets_and_the_laws_hold():
    machine = drive(Busy)
    assert {reached.transport for reached in machine.reached} == {"WebSocket"}
    machine.assert_reached_all((Stopped, TimedOut, Disconnected))


class ForgetsData(Busy):
    """A planted fault: what was returned for the client's data is not written in order."""

    def receive(self, data):
        outcome = super().receive(data)
        if isinstance(outcome, list):
            self.ref._machine.output._add_data("smuggled")
        return outcome


def test_a_message_that_nobody_returned_is_found():
    with pytest.raises(LawBroken, match="smuggled"):
        drive(ForgetsData)


def test_an_event_is_no_command_of_a_websocket():
    class Wrong(WebSocketHandler):
        def receive(self, data):
            return ServerSentEvent("x")

    wrong = App()
    wrong.route("/", Wrong)
    with Simulation(wrong, laws=True) as sim:
        websocket = sim.websocket("/")
        websocket.send("x")
        assert websocket.close_code == 1011
        assert "Send(...)" in str(websocket.reason.error)
