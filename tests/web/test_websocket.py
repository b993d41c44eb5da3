"""`WebSocketHandler`: a WebSocket as its client sees it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import trio
from support.fake import Poll, Stream, serve, settle
from support.fake_websocket import Socket

from trioloop import (
    Accept,
    BadReturn,
    Close,
    Completed,
    Continue,
    Crashed,
    Disconnected,
    Failed,
    Hibernate,
    MessageTooLarge,
    Overflowed,
    Ping,
    ProtocolViolation,
    Reply,
    Send,
    SendAfter,
    SendTimedOut,
    ShutDown,
    Stop,
    Stopped,
    Then,
    TimedOut,
    WebSocketHandler,
)

PINGING = {"websocket.http.response": {}, "trioloop.websocket": {}}
"""The extensions of a server that pings, hears pongs and says what went wrong."""


# -- the handshake ---------------------------------------------------------------------------------


async def test_it_is_accepted_when_init_has_returned(autojump_clock):
    async def init(request):
        await trio.sleep(2)

    async with serve() as client:
        websocket = client.run_websocket(Socket(init=init))
        await trio.sleep(1)
        assert not websocket.accepted
        await trio.sleep(2)
        assert websocket.accepted
        assert websocket.messages[0][0] == 2.0


async def test_accept_chooses_a_subprotocol_and_headers(autojump_clock):
    socket = Socket(init=lambda request: Accept("b", {"X-Room": "7"}))
    async with serve() as client:
        websocket = client.run_websocket(socket, subprotocols=("a", "b"))
        await settle()
        assert (websocket.subprotocol, websocket.headers) == ("b", {"x-room": "7"})


async def test_headers_may_come_from_an_iterator(autojump_clock):
    socket = Socket(init=lambda request: Accept(headers=iter([("X-Room", "7")])))
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        assert websocket.headers == {"x-room": "7"}


async def test_init_may_accept_and_send_at_once(autojump_clock):
    socket = Socket(init=lambda request: [Accept(), Send("one"), Send(b"two")])
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        assert websocket.received == ["one", b"two"]


async def test_data_from_init_accepts(autojump_clock):
    async with serve() as client:
        websocket = client.run_websocket(Socket(init=lambda request: Send("hello")))
        await settle()
        assert websocket.accepted
        assert websocket.received == ["hello"]


async def test_a_reply_from_init_refuses(autojump_clock):
    socket = Socket(init=lambda request: Reply(401, "who?", {"x-why": "because"}))
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await websocket.wait_returned()
        assert (websocket.status, websocket.body) == (401, b"who?")
        assert websocket.headers["x-why"] == "because"
        assert websocket.headers["content-length"] == "4"
        assert socket.reasons == [Completed()]


async def test_a_refusal_is_403_on_a_server_that_knows_no_other(autojump_clock):
    socket = Socket(init=lambda request: Reply(401, "who?"))
    async with serve() as client:
        websocket = client.run_websocket(socket, extensions={})
        await websocket.wait_returned()
        assert websocket.status == 403
        assert socket.reasons == [Completed()]


BAD_ACCEPTS = {
    "unoffered": (Accept("c"), "'c' was not offered"),
    "no name": (Accept("a b"), "no name of a subprotocol"),
    "pseudo header": (Accept(headers={":status": "200"}), "no header name"),
    "line break in a value": (Accept(headers={"x": "a\r\nb"}), "control characters"),
    "line break in a name": (Accept(headers={"x\r\ny": "a"}), "no header name"),
    "subprotocol as a header": (Accept(headers={"Sec-WebSocket-Protocol": "a"}), "handshake's"),
    "upgrade": (Accept(headers={"Upgrade": "h2c"}), "handshake's"),
    "connection": (Accept(headers={"Connection": "close"}), "leave it to the server"),
    "not Latin-1": (Accept(headers={"x": "\u20ac"}), "not Latin-1"),
    "bytes": (Accept(headers={b"x": b"y"}), "str"),
    "no headers": (Accept(headers=7), "headers"),
    "no pairs": (Accept(headers=["abc"]), ""),
    "no text": (Accept(7), "was not offered"),
}


@pytest.mark.parametrize("name", BAD_ACCEPTS)
async def test_an_accept_that_cannot_be_sent_is_a_bad_return_and_a_clean_500(autojump_clock, name):
    accept, sentence = BAD_ACCEPTS[name]
    socket = Socket(init=lambda request: accept)
    async with serve() as client:
        websocket = client.run_websocket(socket, subprotocols=("a", "a b"))
        await websocket.wait_returned()
        [reason] = socket.reasons
        assert isinstance(reason, Crashed)
        assert isinstance(reason.error, BadReturn)
        assert sentence in str(reason.error)
        assert websocket.status == 500
        assert websocket.error is None


async def test_a_client_that_leaves_before_the_accept_is_a_disconnect(autojump_clock):
    async def init(request):
        await trio.sleep_forever()

    socket = Socket(init=init)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await trio.sleep(1)
        websocket.disconnect()
        await websocket.wait_returned()
        assert socket.reasons == [Disconnected()]
        assert websocket.messages == []


@pytest.mark.parametrize("kind", [Poll, Stream])
async def test_other_handlers_refuse_websockets(autojump_clock, kind):
    async with serve() as client:
        websocket = client.run_websocket(kind())
        await websocket.wait_returned()
        assert websocket.status == 403


async def test_a_request_that_is_no_websocket_is_told_to_upgrade(autojump_clock):
    async with serve() as client:
        exchange = client.run(Socket())
        await exchange.wait_returned()
        assert exchange.status == 426
        assert exchange.headers["upgrade"] == "websocket"


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
async def test_a_handler_that_cannot_be_made_is_500(autojump_clock, extensions, caplog):
    async with serve() as client:
        endpoint = client.hub.endpoint(lambda: 1 / 0)
        websocket = client.websocket(app=endpoint, extensions=extensions)
        await websocket.wait_returned()
        assert websocket.status == (500 if extensions else 403)
    assert "ZeroDivisionError" in caplog.text


async def test_a_route_of_an_app_serves_websockets_with_its_options(autojump_clock):
    from trioloop import App

    app = App()

    @app.route("/rooms/{room}", max_message_size=3)
    class Room(WebSocketHandler):
        def receive(self, data):
            return Send(f"{self.request.path_params['room']}: {data}")

    async with serve(app) as client:
        websocket = client.websocket("/rooms/7")
        websocket.send("hi")
        await settle()
        assert websocket.received == ["7: hi"]
        websocket.send("long")
        await websocket.wait_returned()
        assert websocket.close == (1009, "")


async def test_hub_run_serves_a_websocket_of_starlettes(autojump_clock):
    from starlette.websockets import WebSocket

    socket = Socket(init=lambda request: Send("hello"))
    async with serve() as client:

        async def app(scope, receive, send):
            await client.hub.run(socket, WebSocket(scope, receive, send))

        websocket = client.websocket(app=app)
        await settle()
        assert websocket.received == ["hello"]


async def test_hub_run_does_not_take_a_websocket_that_was_accepted(autojump_clock):
    from starlette.websockets import WebSocket

    async with serve() as client:

        async def app(scope, receive, send):
            websocket = WebSocket(scope, receive, send)
            await websocket.accept()
            with pytest.raises(RuntimeError, match="init"):
                await client.hub.run(Socket(), websocket)

        websocket = client.websocket(app=app)
        await websocket.wait_returned()
        assert websocket.error is None


# -- data ------------------------------------------------------------------------------------------


async def test_what_the_client_sends_is_received_in_order(autojump_clock):
    socket = Socket()
    async with serve() as client:
        websocket = client.run_websocket(socket)
        for data in ("one", b"two", "", b"", "\u20ac"):
            websocket.send(data)
        await settle()
        assert socket.received == ["one", b"two", "", b"", "\u20ac"]


async def test_data_that_came_before_the_accept_waits_for_it(autojump_clock):
    async def init(request):
        await trio.sleep(1)

    socket = Socket(init=init)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        websocket.send("early")
        await trio.sleep(0.5)
        assert socket.received == []
        await trio.sleep(1)
        assert socket.received == ["early"]


async def test_a_handler_without_receive_closes_at_the_first_message(autojump_clock):
    class Feed(WebSocketHandler):
        pass

    feed = Feed()
    async with serve() as client:
        websocket = client.run_websocket(feed)
        websocket.send("hello?")
        await websocket.wait_returned()
        assert websocket.close[0] == 1003
        assert await feed.ref.wait_ended() == Stopped()


async def test_commands_of_one_return_are_written_in_order_and_none_is_lost(autojump_clock):
    commands = [Send("1"), Send(b"2"), Then("then"), Send.json({"n": 3}), Send("4")]
    socket = Socket(
        receive=lambda data: commands, answer=lambda message: Send("then") if message else None
    )
    async with serve() as client:
        websocket = client.run_websocket(socket)
        websocket.send("go")
        await settle()
        assert websocket.received == ["1", b"2", '{"n":3}', "4", "then"]


async def test_send_is_a_command_for_messages_and_idle_too(autojump_clock):
    socket = Socket(idle=lambda: Send("idle"), idle_timeout=2.0)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        socket.ref.send_nowait(Send("message"))
        await trio.sleep(3)
        assert websocket.received_at == [(0.0, "message"), (2.0, "idle")]


async def test_pings_go_out_where_the_server_can(autojump_clock):
    for extensions, pings in ((PINGING, [(0.0, b"x")]), (None, [])):
        socket = Socket(receive_timeout=math.inf)
        async with serve() as client:
            websocket = client.run_websocket(socket, extensions=extensions)
            await settle()
            started = trio.current_time()
            socket.ref.send_nowait([Ping(b"x"), Send("after")])
            await settle()
            assert [(time - started, data) for time, data in websocket.pings] == pings
            assert websocket.received == ["after"]


async def test_data_wakes_a_handler_that_hibernates(autojump_clock):
    socket = Socket(init=lambda request: Hibernate())
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        assert socket.ref.statistics().hibernating
        websocket.send("up")
        await settle()
        assert socket.received == ["up"]
        assert not socket.ref.statistics().hibernating


async def test_data_does_not_end_the_wait_of_a_postponed_message(autojump_clock):
    from trioloop import Postpone

    handled = []

    def answer(message):
        handled.append(message)
        return Postpone() if message == "later" and handled.count("later") == 1 else None

    socket = Socket(answer)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        socket.ref.send_nowait("later")
        websocket.send("data")
        await settle()
        assert handled == ["later"]
        socket.ref.send_nowait("now")
        await settle()
        assert handled == ["later", "now", "later"]


# -- flow control ----------------------------------------------------------------------------------


async def test_a_busy_handler_is_at_most_one_message_behind_the_reading(autojump_clock):
    async def receive(data):
        await trio.sleep(1)

    socket = Socket(receive=receive)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        for number in range(5):
            websocket.send(str(number))
        for second in range(4):
            await trio.sleep(0.5 if second == 0 else 1)
            assert websocket.taken == second + 2


async def test_a_message_that_waits_is_not_lost_on_a_busy_handler(autojump_clock):
    received = []

    async def receive(data):
        await trio.sleep(1)
        received.append(data)

    async with serve() as client:
        websocket = client.run_websocket(Socket(receive=receive))
        for number in range(5):
            websocket.send(str(number))
        await trio.sleep(6)
        assert received == ["0", "1", "2", "3", "4"]


async def test_continue_receive_false_pauses_and_true_resumes(autojump_clock):
    socket = Socket()
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        socket.ref.send_nowait(Continue(receive=False))
        await settle()
        for number in range(3):
            websocket.send(str(number))
        await trio.sleep(10)
        assert (socket.received, websocket.taken) == ([], 1)
        socket.ref.send_nowait(Continue(receive=True))
        await settle()
        assert socket.received == ["0", "1", "2"]


async def test_a_pause_holds_back_a_message_that_waits_already(autojump_clock):
    async def answer(message):
        await trio.sleep(1)
        return Continue(receive=message)

    socket = Socket(answer)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        socket.ref.send_nowait(False)
        await trio.sleep(0.5)
        websocket.send("waits")
        await trio.sleep(5)
        assert socket.received == []
        socket.ref.send_nowait(True)
        await trio.sleep(2)
        assert socket.received == ["waits"]


async def test_messages_come_while_the_reading_is_paused(autojump_clock):
    socket = Socket(init=lambda request: Continue(receive=False))
    async with serve() as client:
        websocket = client.run_websocket(socket)
        websocket.send("data")
        await settle()
        socket.ref.send_nowait(Send("still here"))
        await settle()
        assert (websocket.received, socket.received) == (["still here"], [])


async def test_a_disconnect_is_seen_while_the_reading_is_paused_and_nothing_waits(autojump_clock):
    socket = Socket(init=lambda request: Continue(receive=False))
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        websocket.disconnect()
        await websocket.wait_returned()
        assert socket.reasons == [Disconnected()]


async def test_data_and_messages_take_turns(autojump_clock):
    order = []

    async def slow(what):
        order.append(what)
        await trio.sleep(1)

    socket = Socket(slow, receive=slow)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        for number in range(4):
            socket.ref.send_nowait(number)
            websocket.send(str(number))
        await trio.sleep(10)
        assert [type(what) for what in order[1:7]] in ([str, int] * 3, [int, str] * 3)
        assert [what for what in order if type(what) is int] == [0, 1, 2, 3]
        assert [what for what in order if type(what) is str] == ["0", "1", "2", "3"]


# -- time ------------------------------------------------------------------------------------------


async def test_data_does_not_move_the_idle_time(autojump_clock):
    socket = Socket(idle_timeout=2.0)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        for _ in range(3):
            websocket.send("x")
            await trio.sleep(0.75)
        await websocket.wait_returned()
        assert (socket.reasons, socket.ended_at) == ([TimedOut("mailbox")], 2.0)
        assert websocket.close == (1000, "")


async def test_a_client_that_never_stops_sending_does_not_keep_idle_away(autojump_clock):
    async def receive(data):
        await trio.sleep(0.5)

    socket = Socket(idle_timeout=2.0, receive=receive)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        for number in range(100):
            websocket.send(str(number))
        await websocket.wait_returned()
        assert (socket.reasons, socket.ended_at) == ([TimedOut("mailbox")], 2.0)


async def test_the_time_of_a_slow_receive_belongs_to_the_silence_of_the_mailbox(autojump_clock):
    async def receive(data):
        await trio.sleep(3)

    socket = Socket(idle_timeout=2.0, receive=receive)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await trio.sleep(1)
        websocket.send("x")
        await websocket.wait_returned()
        assert (socket.reasons, socket.ended_at) == ([TimedOut("mailbox")], 4.0)


async def test_a_client_that_is_silent_for_receive_timeout_is_closed(autojump_clock):
    socket = Socket(receive_timeout=2.0)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await trio.sleep(1)
        websocket.send("x")
        await websocket.wait_returned()
        assert (socket.reasons, socket.ended_at) == ([TimedOut("client")], 3.0)
        assert websocket.close == (1000, "")


async def test_messages_do_not_move_the_clients_silence(autojump_clock):
    socket = Socket(receive_timeout=2.0)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await trio.sleep(1)
        socket.ref.send_nowait(Send("x"))
        await websocket.wait_returned()
        assert socket.ended_at == 2.0


async def test_the_default_receive_timeout_does_not_hold_where_pongs_are_hidden(autojump_clock):
    async with serve() as client:
        websocket = client.run_websocket(Socket())
        await trio.sleep(1000)
        assert not websocket.returned


class Impatient(Socket):
    receive_timeout = 2.0


@pytest.mark.parametrize("how", ["class", "route", "continue"])
async def test_a_receive_timeout_that_was_set_holds_under_every_server(autojump_clock, how):
    async with serve() as client:
        made = []

        def make():
            handler = Impatient() if how == "class" else Socket()
            if how == "continue":
                handler.init = lambda request: Continue(receive_timeout=2.0)
            made.append(handler)
            return handler

        options = {"receive_timeout": 2.0} if how == "route" else {}
        websocket = client.websocket(app=client.hub.endpoint(make, **options))
        await websocket.wait_returned()
        assert (made[0].reasons, made[0].ended_at) == ([TimedOut("client")], 2.0)


async def test_continue_changes_the_receive_timeout_from_now_on(autojump_clock):
    socket = Socket(receive_timeout=10.0)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await trio.sleep(5)
        socket.ref.send_nowait(Continue(receive_timeout=2.0))
        await websocket.wait_returned()
        assert (socket.reasons, socket.ended_at) == ([TimedOut("client")], 7.0)


async def test_silence_does_not_count_while_the_clients_message_waits(autojump_clock):
    async def receive(data):
        await trio.sleep(10)

    socket = Socket(receive_timeout=2.0, receive=receive)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        websocket.send("one")
        websocket.send("two")
        await websocket.wait_returned()
        assert socket.ended_at == 20.0  # found between callbacks; silent since "two" was taken


async def test_silence_does_not_count_while_the_reading_is_paused(autojump_clock):
    socket = Socket(receive_timeout=2.0, init=lambda request: Continue(receive=False))
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await trio.sleep(10)
        socket.ref.send_nowait(Continue(receive=True))
        await websocket.wait_returned()
        assert socket.ended_at == 12.0


async def test_a_silent_client_is_pinged_and_its_pongs_keep_it(autojump_clock):
    socket = Socket()
    async with serve() as client:
        websocket = client.run_websocket(socket, extensions=PINGING)
        for _ in range(6):
            await trio.sleep(30)
            websocket.pong()
        await trio.sleep(59)
        assert not websocket.returned
        assert len(websocket.pings) >= 9
        await websocket.wait_returned()
        assert (socket.reasons, socket.ended_at) == ([TimedOut("client")], 240.0)
        times = [time for time, _ in websocket.pings]
        assert all(later - earlier == 20.0 for earlier, later in pairwise(times))


@pytest.mark.parametrize("receive_timeout", [0.0, 1e-9, 0.1])
async def test_a_client_of_a_paused_handler_is_not_flooded_with_pings(
    autojump_clock, receive_timeout
):
    """Nobody listens for its silence, which would end the handler after so short a time."""
    socket = Socket(
        init=lambda request: [Accept(), Continue(receive=False, receive_timeout=receive_timeout)]
    )
    async with serve() as client:
        websocket = client.run_websocket(socket, extensions=PINGING)
        await trio.sleep(1.05)
        assert socket.reasons == []
        assert 0 < len(websocket.pings) <= 10


# -- what ends it ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command, code, reason",
    [
        (Close(), 1000, ""),
        (Close(4001, "kicked"), 4001, "kicked"),
        (Close(1008, "\u20ac" * 41), 1008, "\u20ac" * 41),
        (Stop(), 1000, ""),
    ],
)
async def test_close_and_stop_end_the_handler(autojump_clock, command, code, reason):
    socket = Socket(receive=lambda data: [Send("bye"), command])
    async with serve() as client:
        websocket = client.run_websocket(socket)
        websocket.send("x")
        await websocket.wait_returned()
        assert websocket.received == ["bye"]
        assert websocket.close == (code, reason)
        assert socket.reasons == [Stopped()]
        assert trio.current_time() == 0.0


async def test_close_from_init_accepts_closes_and_completes(autojump_clock):
    socket = Socket(init=lambda request: Close(4003, "not you"))
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await websocket.wait_returned()
        assert websocket.accepted
        assert websocket.close == (4003, "not you")
        assert socket.reasons == [Completed()]


async def test_stop_from_init_refuses_with_204(autojump_clock):
    socket = Socket(init=lambda request: Stop())
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await websocket.wait_returned()
        assert websocket.status == 204
        assert socket.reasons == [Stopped()]


@pytest.mark.parametrize("command", [Send("x"), Ping(), Close(), Continue(), SendAfter(1, "x")])
async def test_nothing_may_follow_close(autojump_clock, command):
    socket = Socket()
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        socket.ref.send_nowait([Send("never"), Close(), command])
        await websocket.wait_returned()
        [reason] = socket.reasons
        assert isinstance(reason.error, BadReturn)
        assert "nothing may follow Close" in str(reason.error)
        assert websocket.received == []
        assert websocket.close == (1011, "")


def crash(*args):
    raise ValueError("planned")


async def crash_later(*args):
    await trio.sleep(0.5)
    raise ValueError("planned")


@pytest.mark.parametrize("how", [crash, crash_later])
@pytest.mark.parametrize("callback", ["init", "receive", "info", "notify", "idle"])
async def test_a_crash_is_500_before_the_accept_and_1011_after_it(autojump_clock, callback, how):
    attributes = {"answer" if callback == "info" else callback: how}
    socket = Socket(idle_timeout=2.0, **attributes)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        if callback == "receive":
            websocket.send("x")
        if callback == "info":
            socket.ref.send_nowait("x")
        if callback == "notify":
            socket.ref.notify("x")
        await websocket.wait_returned()
        [reason] = socket.reasons
        assert isinstance(reason, Crashed)
        assert reason.callback == callback
        if callback == "init":
            assert websocket.status == 500
        else:
            assert websocket.close == (1011, "")


async def test_a_crash_in_terminate_changes_nothing(autojump_clock):
    socket = Socket(terminate=crash)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        socket.ref.send_nowait(Close(4000))
        await websocket.wait_returned()
        assert websocket.close == (4000, "")
        assert await socket.ref.wait_ended() == Stopped()


async def test_output_before_a_crash_is_written(autojump_clock):
    socket = Socket(receive=lambda data: Send("one") if data == "1" else crash())
    async with serve() as client:
        websocket = client.run_websocket(socket)
        websocket.send("1")
        websocket.send("2")
        await websocket.wait_returned()
        assert websocket.received == ["one"]
        assert websocket.close == (1011, "")


@pytest.mark.parametrize("value", ["text", b"bytes", {"a": 1}, [None], Send, 7])
async def test_a_bad_return_names_receive_and_the_way_out(autojump_clock, value):
    socket = Socket(receive=lambda data: value)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        websocket.send("x")
        await websocket.wait_returned()
        [reason] = socket.reasons
        assert str(reason.error).startswith(f"receive() returned {value!r}: ")
        assert websocket.close == (1011, "")


async def test_data_as_a_return_value_is_to_be_wrapped_in_send(autojump_clock):
    socket = Socket(receive=lambda data: data)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        websocket.send("x")
        await websocket.wait_returned()
        assert "Send(...)" in str(socket.reasons[0].error)


async def test_a_full_mailbox_closes_with_try_again_later(autojump_clock):
    socket = Socket(mailbox_size=1)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        socket.ref.send_nowait(1)
        socket.ref.send_nowait(2)
        await websocket.wait_returned()
        assert socket.reasons == [Overflowed("mailbox", 1)]
        assert websocket.close == (1013, "")


async def test_a_full_mailbox_before_the_accept_is_503(autojump_clock):
    async def init(request):
        await trio.sleep(1)

    socket = Socket(mailbox_size=1, init=init)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        socket.ref.send_nowait(1)
        socket.ref.send_nowait(2)
        await websocket.wait_returned()
        assert websocket.status == 503
        assert websocket.headers["retry-after"] in ("1", "2", "3")


@pytest.mark.parametrize("data, size", [("\u20ac" * 4, 11), (b"x" * 12, 11), ("x" * 12, 11)])
async def test_a_message_of_more_bytes_than_max_message_size_is_not_received(
    autojump_clock, data, size
):
    for limit, fits in ((size, False), (12, True)):
        socket = Socket(max_message_size=limit)
        async with serve() as client:
            websocket = client.run_websocket(socket)
            websocket.send(data)
            await settle()
            if fits:
                assert socket.received == [data]
                continue
            await websocket.wait_returned()
            [reason] = socket.reasons
            assert isinstance(reason, Failed)
            assert isinstance(reason.error, MessageTooLarge)
            assert reason.error.limit == limit
            assert socket.received == []
            assert websocket.close == (1009, "")


async def test_a_message_that_is_too_large_interrupts_a_callback(autojump_clock):
    async def receive(data):
        await trio.sleep_forever()

    socket = Socket(receive=receive, max_message_size=3)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        websocket.send("one")
        websocket.send("more")
        await websocket.wait_returned()
        assert isinstance(socket.reasons[0].error, MessageTooLarge)
        assert websocket.close == (1009, "")


async def test_a_message_that_is_too_large_does_not_tear_a_write(autojump_clock):
    socket = Socket(max_message_size=3)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        websocket.stall()
        socket.ref.send_nowait([Send("one"), Send("two")])
        await trio.sleep(1)
        websocket.send("more")
        await trio.sleep(1)
        websocket.resume()
        await websocket.wait_returned()
        assert isinstance(socket.reasons[0].error, MessageTooLarge)
        assert websocket.received == ["one", "two"]
        assert websocket.close == (1009, "")


async def test_what_a_client_does_wrong_is_no_error_in_the_log(autojump_clock, caplog):
    async with serve() as client:
        websocket = client.run_websocket(Socket(max_message_size=3))
        websocket.send("more")
        await websocket.wait_returned()
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


@pytest.mark.parametrize("code", [1002, 1007, 1009])
async def test_a_violation_that_the_server_tells_of_is_failed(autojump_clock, code):
    socket = Socket()
    async with serve() as client:
        websocket = client.run_websocket(socket, extensions=PINGING)
        await settle()
        websocket.violate(code)
        await websocket.wait_returned()
        [reason] = socket.reasons
        assert isinstance(reason, Failed)
        if code == 1009:
            assert isinstance(reason.error, MessageTooLarge)
        else:
            assert isinstance(reason.error, ProtocolViolation)
            assert (reason.error.code, str(reason.error)) == (code, "that was no frame")


async def test_a_clients_close_is_a_disconnect_without_a_code_on_the_stock_worker(autojump_clock):
    socket = Socket()
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        websocket.disconnect(4000, "bye")
        await websocket.wait_returned()
        assert socket.reasons == [Disconnected(None, "")]


async def test_a_clients_close_code_is_passed_on_where_the_server_does(autojump_clock):
    socket = Socket()
    async with serve() as client:
        websocket = client.run_websocket(socket, true_codes=True)
        await settle()
        websocket.disconnect(4000, "bye")
        await websocket.wait_returned()
        assert socket.reasons == [Disconnected(4000, "bye")]


async def test_a_disconnect_interrupts_a_callback(autojump_clock):
    async def receive(data):
        await trio.sleep_forever()

    socket = Socket(receive=receive)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        websocket.send("x")
        await trio.sleep(1)
        websocket.disconnect()
        await websocket.wait_returned()
        assert (socket.reasons, socket.ended_at) == ([Disconnected()], 1.0)


async def test_a_disconnect_behind_a_message_that_waits_is_seen_after_it(autojump_clock):
    async def receive(data):
        await trio.sleep(3)

    socket = Socket(receive=receive)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        websocket.send("handled")
        websocket.send("waits")
        await trio.sleep(1)
        websocket.disconnect()
        await websocket.wait_returned()
        assert (socket.reasons, socket.ended_at) == ([Disconnected()], 3.0)


async def test_a_send_that_raises_oserror_is_a_disconnect(autojump_clock):
    socket = Socket()
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        websocket.fail_sends(OSError("gone"))
        socket.ref.send_nowait(Send("x"))
        assert await socket.ref.wait_ended() == Disconnected()


async def test_a_send_that_raises_something_else_fails_and_drops_the_connection(autojump_clock):
    error = RuntimeError("the server is confused")
    socket = Socket()
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        websocket.fail_sends(error)
        socket.ref.send_nowait(Send("x"))
        assert await socket.ref.wait_ended() == Failed(error)
        await websocket.wait_returned()
        assert websocket.close is None
        assert websocket.server_code == 1011


@pytest.mark.parametrize("flood", [0, 1, 30])
async def test_a_client_that_stops_reading_is_given_up_after_send_timeout(autojump_clock, flood):
    socket = Socket(send_timeout=2.0)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        websocket.stall()
        socket.ref.send_nowait([Send("stuck"), Send("behind it")])
        for _ in range(flood):
            websocket.send("x")
        await websocket.wait_returned()
        reason = await socket.ref.wait_ended()
        assert isinstance(reason, Failed)
        assert isinstance(reason.error, SendTimedOut)
        assert 2.0 <= trio.current_time() < 2.5


async def test_a_close_frame_that_is_stuck_is_given_up_too(autojump_clock):
    socket = Socket(send_timeout=2.0)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        websocket.stall()
        socket.ref.send_nowait(Close())
        await websocket.wait_returned()
        reason = await socket.ref.wait_ended()
        assert isinstance(reason.error, SendTimedOut)
        assert 2.0 <= trio.current_time() < 2.5


async def test_our_close_waits_for_the_clients_but_not_for_long(autojump_clock):
    socket = Socket()
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        websocket.answers_close = False
        for _ in range(30):
            websocket.send("x")
        socket.ref.send_nowait(Close())
        assert await socket.ref.wait_ended() == Stopped()
        assert trio.current_time() == 0.0
        await websocket.wait_returned()
        assert trio.current_time() == 2.0


async def test_what_waits_when_the_handler_ends_is_nobodys(autojump_clock):
    received = []

    async def receive(data):
        received.append(data)
        await trio.sleep(1)
        return Close()

    async with serve() as client:
        websocket = client.run_websocket(Socket(receive=receive))
        for number in range(20):
            websocket.send(str(number))
        await websocket.wait_returned()
        assert received == ["0"]
        assert client.hub.statistics().dead_letters == 0


@pytest.mark.parametrize("how", ["ref", "hub", "cancel"])
async def test_a_shutdown_is_1012(autojump_clock, how):
    socket = Socket()
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        {"ref": socket.ref.stop, "hub": client.hub.shut_down, "cancel": websocket.cancel}[how]()
        await websocket.wait_returned()
        assert socket.reasons == [ShutDown()]
        assert websocket.close == (1012, "")


async def test_a_shutdown_before_the_accept_is_503(autojump_clock):
    async def init(request):
        await trio.sleep_forever()

    socket = Socket(init=init)
    async with serve() as client:
        websocket = client.run_websocket(socket)
        await settle()
        socket.ref.stop()
        await websocket.wait_returned()
        assert socket.reasons == [ShutDown()]
        assert websocket.status == 503
        assert websocket.headers["retry-after"] in ("1", "2", "3")


async def test_a_hub_that_shuts_down_turns_websockets_away(autojump_clock):
    async with serve() as client:
        client.hub.shut_down()
        websocket = client.run_websocket(Socket())
        await websocket.wait_returned()
        assert websocket.status == 503


# -- commands --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda: Send(7), TypeError),
        (lambda: Send(None), TypeError),
        (lambda: Send("\ud800"), ValueError),
        (lambda: Send.json(math.nan), ValueError),
        (lambda: Send.json({1, 2}), TypeError),
        (lambda: Close("1000"), TypeError),
        (lambda: Close(True), TypeError),
        (lambda: Close(999), ValueError),
        (lambda: Close(1004), ValueError),
        (lambda: Close(1005), ValueError),
        (lambda: Close(1006), ValueError),
        (lambda: Close(1015), ValueError),
        (lambda: Close(2999), ValueError),
        (lambda: Close(5000), ValueError),
        (lambda: Close(1000, b"x"), TypeError),
        (lambda: Close(1000, "x" * 124), ValueError),
        (lambda: Close(1000, "\u20ac" * 42), ValueError),
        (lambda: Ping("x"), TypeError),
        (lambda: Ping(b"x" * 126), ValueError),
    ],
)
def test_an_impossible_command_is_refused_when_it_is_made(make, error):
    with pytest.raises(error):
        make()


def test_send_takes_whatever_is_bytes():
    assert Send(bytearray(b"x")).data == b"x"
    assert Send(memoryview(b"xy")).data == b"xy"
    assert type(Send(bytearray(b"x")).data) is bytes
