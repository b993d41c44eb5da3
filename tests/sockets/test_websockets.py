"""The WebSocket column of what a client sees, on real sockets under both workers."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
import trio_websocket
from support.sockets import MORE_THAN_BUFFERS, Watch, serving
from support.websocket_peer import (
    ACCEPT,
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    RawWebSocket,
    close_frame,
    frame,
    raw_websocket,
)

from trioloop import (
    Accept,
    BadReturn,
    Close,
    Completed,
    Continue,
    Crashed,
    Disconnected,
    Failed,
    MessageTooLarge,
    Overflowed,
    Ping,
    ProtocolViolation,
    Reply,
    Send,
    SendTimedOut,
    ShutDown,
    Stop,
    Stopped,
    TimedOut,
    WebSocketHandler,
)


def echo(watch: Watch, **attributes):
    """A handler that echoes, carries out commands that are sent to it, and tells the watch."""

    class Echo(WebSocketHandler):
        terminate = watch.ended

        def init(self, request):
            watch.started(self)

        def receive(self, data):
            return Send(data)

    for name, value in attributes.items():
        setattr(Echo, name, value)
    return Echo


async def tasks_at_rest(server, watch) -> int:
    """How many tasks a server has that has served a WebSocket: some come with the first messages."""
    async with raw_websocket(server.port) as websocket:
        ref = await watch.ref()
        for _ in range(2):
            ref.send_nowait(Send("for the handler, and then for the dispatcher"))
            await websocket.next()
    await watch.reason()
    return await living_tasks()


async def living_tasks() -> int:
    """How many tasks there are, now that nobody is just about to start or end one."""
    await trio.testing.wait_all_tasks_blocked(0.01)
    return trio.lowlevel.current_statistics().tasks_living


@asynccontextmanager
async def trio_client(server, **options):
    """A client of trio-websocket, which leaves its socket open after a remote close."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    async with stream, trio.open_nursery() as nursery:
        websocket = await trio_websocket.wrap_client_stream(
            nursery, stream, "127.0.0.1", "/", **options
        )
        async with websocket:
            yield websocket


# -- with a client of somebody else's --------------------------------------------------------------


async def test_trio_websocket_speaks_with_it(worker):
    watch = Watch()
    async with serving(echo(watch)) as (server, _):
        async with trio_client(server) as websocket:
            for data in ("text", b"bytes", "", "\u20ac" * 50_000):
                await websocket.send_message(data)
                assert await websocket.get_message() == data
            ref = await watch.ref()
            ref.send_nowait([Send("one"), Send(b"two")])
            assert await websocket.get_message() == "one"
            assert await websocket.get_message() == b"two"
        assert await watch.reason() == Disconnected(1000 if worker == "trioloop" else None, "")


async def test_trio_websocket_sees_our_close():
    watch = Watch()
    async with serving(echo(watch)) as (server, _):
        async with trio_client(server) as websocket:
            (await watch.ref()).send_nowait([Send("bye"), Close(4001, "kicked")])
            assert await websocket.get_message() == "bye"
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await websocket.get_message()
            assert (closed.value.reason.code, closed.value.reason.reason) == (4001, "kicked")
        assert await watch.reason() == Stopped()


async def test_trio_websocket_gets_its_subprotocol_and_headers():
    watch = Watch()

    def init(self, request):
        return Accept("chat", {"x-room": "7"})

    async with (
        serving(echo(watch, init=init)) as (server, _),
        trio_client(server, subprotocols=["other", "chat"]) as websocket,
    ):
        assert websocket.subprotocol == "chat"
        assert (b"x-room", b"7") in websocket.handshake_headers


@pytest.mark.only_worker("trioloop")
@pytest.mark.parametrize("compress", [True, False, None])
async def test_a_route_chooses_compression(compress):
    """RFC 7692: it is used where the client offers it and the handler, or the server, wants it."""
    offer = [("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")]
    async with (
        serving(echo(Watch()), compress=compress) as (server, _),
        raw_websocket(server.port, headers=offer) as websocket,
    ):
        assert (b"permessage-deflate" in websocket.head) is (compress is True)


async def test_trio_websocket_sees_a_refusal():
    watch = Watch()

    def init(self, request):
        return Reply(401, "who?", {"x-why": "because"})

    async with serving(echo(watch, init=init)) as (server, _):
        with pytest.RaisesGroup(trio_websocket.ConnectionRejected) as group:
            async with trio_client(server):
                pass
        [refused] = group.value.exceptions
        assert refused.status_code == 401
        assert (b"x-why", b"because") in refused.headers
        assert await watch.reason() == Completed()


# -- the handshake ---------------------------------------------------------------------------------


async def test_the_answer_to_the_handshake_is_right():
    """RFC 6455, section 1.3."""
    async with serving(echo(Watch())) as (server, _), raw_websocket(server.port) as websocket:
        fields = [line.partition(b":") for line in websocket.head.split(b"\r\n")]
        answers = [v.strip() for name, _, v in fields if name.lower() == b"sec-websocket-accept"]
        assert answers == [ACCEPT.encode()]


async def test_a_request_that_is_no_websocket_gets_426():
    async with serving(echo(Watch())) as (server, _), server.client() as client:
        await client.request()
        answer = await client.answer()
        assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")


BAD_ACCEPTS = {
    "unoffered": Accept("other"),
    "pseudo header": Accept(headers={":status": "200"}),
    "line break": Accept(headers={"x": "a\r\nb: c"}),
    "its own": Accept(headers={"Sec-WebSocket-Protocol": "chat"}),
}


@pytest.mark.parametrize("name", BAD_ACCEPTS)
async def test_an_accept_that_cannot_be_sent_harms_nobody(name):
    watch = Watch()
    async with serving(echo(watch, init=lambda self, request: BAD_ACCEPTS[name])) as (server, _):
        async with server.client() as client:
            websocket = RawWebSocket(client)
            assert await websocket.open(headers=[("sec-websocket-protocol", "chat")]) == 500
        reason = await watch.reason()
        assert isinstance(reason, Crashed)
        assert isinstance(reason.error, BadReturn)
        assert await server.is_alive()
        assert not any("Traceback" in line for line in server.errors.all)


def fail(*args):
    raise ValueError("planned")


async def test_a_crash_in_init_is_500():
    watch = Watch()
    async with serving(echo(watch, init=fail)) as (server, _), server.client() as client:
        assert await RawWebSocket(client).open() == 500
        assert isinstance(await watch.reason(), Crashed)


# -- what ends it ----------------------------------------------------------------------------------


async def act_crash(ref, websocket):
    await websocket.send(frame(TEXT, b"crash"))


async def act_bad_return(ref, websocket):
    await websocket.send(frame(TEXT, b"bad"))


async def act_command(ref, command):
    ref.send_nowait(command)


async def act_fill(ref, websocket):
    while ref.send_nowait(Continue()):
        pass


async def act_stop(ref, websocket):
    ref.stop()


class Obedient(WebSocketHandler):
    mailbox_size = 3

    def receive(self, data):
        return "text" if data == "bad" else fail() if data == "crash" else Send(data)


ENDINGS = {
    "Close": (lambda ref, ws: act_command(ref, Close(4001, "x")), Stopped, 4001),
    "Stop": (lambda ref, ws: act_command(ref, Stop()), Stopped, 1000),
    "timed out": (lambda ref, ws: act_command(ref, Stop(TimedOut())), TimedOut, 1000),
    "crash": (act_crash, Crashed, 1011),
    "bad return": (act_bad_return, Crashed, 1011),
    "refused message": (lambda ref, ws: act_command(ref, "no command"), Crashed, 1011),
    "overflow": (act_fill, Overflowed, 1013),
    "stop": (act_stop, ShutDown, 1012),
}


@pytest.mark.parametrize("name", ENDINGS)
async def test_the_client_sees_the_close_code_of_the_reason(name):
    act, reason, code = ENDINGS[name]
    watch = Watch()

    class Handler(Obedient):
        terminate = watch.ended

        def init(self, request):
            watch.started(self)

    async with serving(Handler) as (server, _):
        async with raw_websocket(server.port) as websocket:
            await act(await watch.ref(), websocket)
            frames = await websocket.until_close()
            assert [one.opcode for one in frames] == [CLOSE]
            assert frames[0].code == code
            await websocket.send(close_frame(code))
            assert await websocket.next() is None
        assert type(await watch.reason()) is reason
        assert not any("Traceback" in line for line in server.errors.all)


CRASHES = {
    "receive": lambda ref, ws: ws.send(frame(TEXT, b"x")),
    "info": lambda ref, ws: act_command(ref, "x"),
    "notify": lambda ref, ws: act_notify(ref),
    "idle": lambda ref, ws: act_command(ref, Continue(idle_timeout=0.05)),
}


async def act_notify(ref):
    ref.notify("x")


@pytest.mark.parametrize("callback", CRASHES)
async def test_a_crash_in_any_callback_after_the_accept_is_1011(callback):
    watch = Watch()
    async with serving(echo(watch, **{callback: fail})) as (server, _):
        async with raw_websocket(server.port) as websocket:
            await CRASHES[callback](await watch.ref(), websocket)
            assert (await websocket.until_close())[-1].code == 1011
        reason = await watch.reason()
        assert isinstance(reason, Crashed)
        assert reason.callback == callback


async def test_a_crash_in_terminate_harms_nobody():
    watch = Watch()

    def terminate(self, reason):
        watch.ended(reason)
        fail()

    async with serving(echo(watch, terminate=terminate)) as (server, _):
        async with raw_websocket(server.port) as websocket:
            (await watch.ref()).send_nowait(Close(4001))
            assert (await websocket.until_close())[-1].code == 4001
        assert await watch.reason() == Stopped()
        assert await server.is_alive()


async def test_the_idle_time_ends_it_with_1000():
    watch = Watch()
    async with serving(echo(watch), idle_timeout=0.1) as (server, _):
        async with raw_websocket(server.port) as websocket:
            assert (await websocket.until_close())[-1].code == 1000
        assert await watch.reason() == TimedOut("mailbox")


async def test_a_silent_client_ends_it_with_1000():
    watch = Watch()
    async with serving(echo(watch), receive_timeout=0.1) as (server, _):
        async with raw_websocket(server.port) as websocket:
            assert (await websocket.until_close())[-1].code == 1000
        assert await watch.reason() == TimedOut("client")


@pytest.mark.parametrize("fragments", [1, 3])
async def test_a_message_that_is_too_large_ends_it_with_1009(fragments):
    watch = Watch()
    async with serving(echo(watch), max_message_size=100) as (server, _):
        async with raw_websocket(server.port) as websocket:
            parts = [b"x" * 40] * fragments if fragments > 1 else [b"x" * 101]
            opcodes = [TEXT] + [CONTINUATION] * (len(parts) - 1)
            frames = [
                frame(opcode, part, fin=place == len(parts) - 1)
                for place, (opcode, part) in enumerate(zip(opcodes, parts, strict=True))
            ]
            await websocket.send(*frames)
            assert (await websocket.until_close())[-1].code == 1009
        reason = await watch.reason()
        assert isinstance(reason, Failed)
        assert isinstance(reason.error, MessageTooLarge)


async def test_fragments_are_one_message_and_control_frames_may_come_between():
    """RFC 6455, section 5.4."""
    async with serving(echo(Watch())) as (server, _), raw_websocket(server.port) as websocket:
        await websocket.send(
            frame(TEXT, b"one ", fin=False),
            frame(PING, b"?"),
            frame(CONTINUATION, b"two"),
        )
        frames = [await websocket.next(), await websocket.next()]
        assert frames == [Frame(PONG, b"?"), Frame(TEXT, b"one two")]


async def test_bytes_stay_bytes():
    async with serving(echo(Watch())) as (server, _), raw_websocket(server.port) as websocket:
        await websocket.send(frame(BINARY, b"\xff\x00"))
        assert await websocket.next() == Frame(BINARY, b"\xff\x00")


# -- the client goes -------------------------------------------------------------------------------


async def leave_cleanly(websocket):
    await websocket.send(close_frame(1000))
    assert (await websocket.until_close())[-1].code == 1000


async def leave_with_a_code(websocket):
    await websocket.send(close_frame(4000, b"bye"))
    assert (await websocket.until_close())[-1].code == 4000


async def leave_without_a_code(websocket):
    await websocket.send(close_frame())


async def leave_by_closing(websocket):
    websocket.connection.close()


async def leave_by_reset(websocket):
    websocket.connection.reset()


async def leave_by_half(websocket):
    await websocket.connection.half_close()


LEAVES = {
    "close 1000": leave_cleanly,
    "close 4000": leave_with_a_code,
    "close without a code": leave_without_a_code,
    "FIN": leave_by_closing,
    "RST": leave_by_reset,
    "half": leave_by_half,
}


@pytest.mark.only_worker("stock")
@pytest.mark.parametrize("how", LEAVES)
async def test_a_client_that_leaves_is_a_disconnect_whose_code_the_stock_worker_hides(how):
    watch = Watch()
    async with serving(echo(watch)) as (server, _), raw_websocket(server.port) as websocket:
        await LEAVES[how](websocket)
        assert await watch.reason() == Disconnected(None, "")


SAID = {
    "close 1000": Disconnected(1000, ""),
    "close 4000": Disconnected(4000, "bye"),
    "close without a code": Disconnected(1005, ""),
    "FIN": Disconnected(None, ""),
    "RST": Disconnected(None, ""),
    "half": Disconnected(None, ""),
}


@pytest.mark.only_worker("trioloop")
@pytest.mark.parametrize("how", SAID)
async def test_a_handler_hears_what_a_client_said_that_left(how):
    """RFC 6455, section 7.1.5: without a code it is 1005."""
    watch = Watch()
    async with serving(echo(watch)) as (server, _), raw_websocket(server.port) as websocket:
        await LEAVES[how](websocket)
        assert await watch.reason() == SAID[how]


VIOLATIONS = {
    "unmasked": frame(TEXT, b"x", mask=None),
    "opcode": frame(3, b"x"),
    "long control frame": frame(PING, b"x" * 126),
    "fragmented control frame": frame(PING, b"x", fin=False),
    "continuation of nothing": frame(CONTINUATION, b"x"),
    "invalid UTF-8": frame(TEXT, b"\xff\xff"),
    "close with one byte": frame(CLOSE, b"x"),
    "close with a code that is none": close_frame(1005),
    "reserved bit": b"\xf1\x80\0\0\0\0",
}


@pytest.mark.only_worker("stock")
@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_of_the_protocol_is_a_plain_disconnect_on_the_stock_worker(name):
    """RFC 6455, sections 5.1, 5.2, 5.4, 5.5 and 8.1; `trioloop.ProtocolViolation` elsewhere."""
    watch = Watch()
    async with serving(echo(watch)) as (server, _):
        async with raw_websocket(server.port) as websocket:
            await websocket.send(VIOLATIONS[name])
            reason = await watch.reason()
            assert reason == Disconnected(None, "")
        assert await server.is_alive()


@pytest.mark.only_worker("trioloop")
@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_of_the_protocol_fails_with_its_code(name):
    """RFC 6455, section 7.4.1: 1007 for text that is no UTF-8, 1002 for all else."""
    watch = Watch()
    async with serving(echo(watch)) as (server, _), raw_websocket(server.port) as websocket:
        await websocket.send(VIOLATIONS[name])
        reason = await watch.reason()
        assert isinstance(reason, Failed)
        assert isinstance(reason.error, ProtocolViolation)
        assert reason.error.code == (1007 if name == "invalid UTF-8" else 1002)
        assert (await websocket.until_close())[-1].code == reason.error.code


# -- slow clients ----------------------------------------------------------------------------------


async def test_a_client_that_stops_reading_is_given_up_and_nothing_is_left_behind():
    watch = Watch()
    async with serving(echo(watch), send_timeout=0.5) as (server, _):
        before = await tasks_at_rest(server, watch)
        async with raw_websocket(server.port, receive_buffer=4096):
            (await watch.ref()).send_nowait(Send(b"x" * MORE_THAN_BUFFERS))
            reason = await watch.reason()
            assert isinstance(reason, Failed)
            assert isinstance(reason.error, SendTimedOut)
            while await living_tasks() > before:
                pass


async def test_a_client_that_floods_and_does_not_read_is_given_up_too():
    watch = Watch()
    async with serving(echo(watch), send_timeout=0.5) as (server, _):
        before = await tasks_at_rest(server, watch)
        async with (
            raw_websocket(server.port, receive_buffer=4096) as websocket,
            trio.open_nursery() as nursery,
        ):

            @nursery.start_soon
            async def flood():
                with suppress(trio.BrokenResourceError):
                    while True:
                        await websocket.send(frame(BINARY, b"x" * 2**16))

            reason = await watch.reason()
            assert isinstance(reason, Failed)
            assert isinstance(reason.error, SendTimedOut)
        while await living_tasks() > before:
            pass


async def test_a_handler_that_pauses_the_reading_slows_the_client_down():
    watch = Watch()
    received = []

    def init(self, request):
        watch.started(self)
        return Continue(receive=False)

    def receive(self, data):
        received.append(len(data))

    async with (
        serving(echo(watch, init=init, receive=receive)) as (server, _),
        raw_websocket(server.port) as websocket,
    ):
        ref = await watch.ref()
        assert await websocket.connection.flood(frame(BINARY, bytes(2**16))) < 2**25
        assert received == []
        ref.send_nowait(Continue(receive=True))
        ref.send_nowait(Close())
        assert await watch.reason() == Stopped()


async def test_a_handler_that_ends_while_the_client_floods_leaves_nothing_behind():
    watch = Watch()

    def receive(self, data):
        return Close(4000)

    async with serving(echo(watch, receive=receive)) as (server, _):
        before = await tasks_at_rest(server, watch)
        async with raw_websocket(server.port) as websocket:
            await websocket.send(*[frame(TEXT, b"x")] * 1000)
            assert (await websocket.until_close())[-1].code == 4000
            assert await watch.reason() == Stopped()
        while await living_tasks() > before:
            pass


async def test_a_client_that_never_answers_our_close_is_left_after_a_while():
    watch = Watch()
    async with serving(echo(watch)) as (server, _), raw_websocket(server.port) as websocket:
        (await watch.ref()).send_nowait(Close(4000))
        assert (await websocket.until_close())[-1].code == 4000
        assert await watch.reason() == Stopped()
        assert await websocket.next() is None


# -- shutdown --------------------------------------------------------------------------------------


async def test_a_shutdown_without_notice_is_1012():
    watch = Watch()
    async with serving(echo(watch)) as (server, _), raw_websocket(server.port) as websocket:
        await watch.ref()
        server.shut_down()
        assert (await websocket.until_close())[-1].code == 1012
        assert await watch.reason() == ShutDown()
        await server.ended.wait()


# -- silence ---------------------------------------------------------------------------------------


@pytest.mark.only_worker("trioloop")
async def test_a_client_that_answers_pings_may_be_silent_and_one_that_does_not_may_not():
    """RFC 6455, section 5.5.2; on the stock worker pongs are hidden."""
    watch = Watch()
    async with serving(echo(watch), receive_timeout=0.6) as (server, _):
        async with raw_websocket(server.port) as websocket:
            began = trio.current_time()
            for _ in range(6):
                ping = await websocket.next()
                assert ping is not None
                assert ping.opcode == PING
                await websocket.send(frame(PONG, ping.payload))
            assert trio.current_time() - began > 0.6
            assert watch.reasons == []
            frames = await websocket.until_close()
            assert {one.opcode for one in frames[:-1]} <= {PING}
            assert frames[-1].code == 1000
        assert await watch.reason() == TimedOut("client")


@pytest.mark.only_worker("trioloop")
async def test_a_ping_of_a_handler_reaches_the_client():
    watch = Watch()
    async with serving(echo(watch)) as (server, _), raw_websocket(server.port) as websocket:
        (await watch.ref()).send_nowait(Ping(b"data"))
        assert await websocket.next() == Frame(PING, b"data")
