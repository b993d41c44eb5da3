"""Law 4: `terminate` is called exactly once for every handler whose `init` was entered."""

from __future__ import annotations

import logging

import pytest
import trio
from support.fake import Poll, Stream, run_on_virtual_time, serve, settle

from trioloop import (
    BadReturn,
    Completed,
    Crashed,
    Disconnected,
    Failed,
    KeepLatest,
    Overflowed,
    Reply,
    ServerSentEvent,
    ShutDown,
    Stop,
    Stopped,
    TimedOut,
)


class Boom(Exception):
    pass


def raises(*args):
    raise Boom


async def raises_later(*args):
    await trio.sleep(0.125)
    raise Boom


async def returns(value):
    return value


async def sleeps(reason):
    await trio.sleep(1)


async def hangs(reason):
    await trio.sleep_forever()


# -- whatever ends it ------------------------------------------------------------------------------

# How a handler is made, what happens to it, and the type of its reason.
WAYS_TO_END = {
    "a Reply from init": (lambda: Poll(init=lambda request: Reply(200)), None, Completed),
    "a Stop from init": (lambda: Poll(init=lambda request: Stop()), None, Stopped),
    "a Stop": (Poll, lambda ex, h: h.ref.send_nowait(Stop()), Stopped),
    "a Reply": (Poll, lambda ex, h: h.ref.send_nowait(Reply(200)), Stopped),
    "silence": (lambda: Poll(idle_timeout=1.0), None, TimedOut),
    "a Stop as TimedOut": (
        Poll,
        lambda ex, h: h.ref.send_nowait(Stop(TimedOut())),
        TimedOut,
    ),
    "a crash in init": (lambda: Poll(init=raises), None, Crashed),
    "a crash in async init": (lambda: Poll(init=raises_later), None, Crashed),
    "a crash in info": (lambda: Poll(raises), lambda ex, h: h.ref.send_nowait(1), Crashed),
    "a crash in async info": (
        lambda: Poll(raises_later),
        lambda ex, h: h.ref.send_nowait(1),
        Crashed,
    ),
    "a crash in notify": (lambda: Poll(notify=raises), lambda ex, h: h.ref.notify(1), Crashed),
    "a crash in async notify": (
        lambda: Poll(notify=raises_later),
        lambda ex, h: h.ref.notify(1),
        Crashed,
    ),
    "a crash in idle": (lambda: Poll(idle=raises, idle_timeout=1.0), None, Crashed),
    "a crash in async idle": (lambda: Poll(idle=raises_later, idle_timeout=1.0), None, Crashed),
    "a bad return of init": (lambda: Poll(init=lambda request: "bad"), None, Crashed),
    "a bad return of info": (
        lambda: Poll(lambda m: 7),
        lambda ex, h: h.ref.send_nowait(1),
        Crashed,
    ),
    "a bad return of async info": (
        lambda: Poll(lambda message: returns("bad")),
        lambda ex, h: h.ref.send_nowait(1),
        Crashed,
    ),
    "a bad return of idle": (lambda: Poll(idle=lambda: "bad", idle_timeout=1.0), None, Crashed),
    "a key function that raises": (
        lambda: Poll(overflow=KeepLatest(raises)),
        lambda ex, h: h.ref.send_nowait(1),
        Crashed,
    ),
    "an event that cannot be encoded": (
        Stream,
        lambda ex, h: h.ref.send_nowait(ServerSentEvent("x", id="a\nb")),
        Failed,
    ),
    "too many messages": (
        lambda: Poll(mailbox_size=1),
        lambda ex, h: [h.ref.send_nowait(n) for n in range(3)],
        Overflowed,
    ),
    "too much of a body": (lambda: Poll(max_body=1), lambda ex, h: ex.send_body(b"xx"), Overflowed),
    "the client": (Poll, lambda ex, h: ex.disconnect(), Disconnected),
    "the server": (Poll, lambda ex, h: ex.cancel(), ShutDown),
    "an operator": (Poll, lambda ex, h: h.ref.stop(), ShutDown),
}


@pytest.mark.parametrize("way", WAYS_TO_END)
async def test_terminate_is_called_once_with_the_reason_whatever_ends_the_handler(
    autojump_clock, way
):
    make, end, reason = WAYS_TO_END[way]
    handler = make()
    async with serve() as client:
        exchange = client.run(handler)
        await settle()
        if end is not None:
            end(exchange, handler)
        ended = await handler.ref.wait_ended()
        await trio.sleep(100)
    assert type(ended) is reason
    assert handler.reasons == [ended]


@pytest.mark.parametrize("callback", ["init", "info", "notify", "idle"])
async def test_the_reason_names_the_callback_that_crashed(autojump_clock, callback):
    poll = Poll(idle_timeout=1.0, **{callback: raises})
    async with serve() as client:
        client.run(poll)
        await settle()
        if callback == "info":
            poll.ref.send_nowait("message")
        if callback == "notify":
            poll.ref.notify("message")
        reason = await poll.ref.wait_ended()
        assert isinstance(reason, Crashed)
        assert (type(reason.error), reason.callback) == (Boom, callback)


async def test_terminate_is_not_called_when_init_was_never_entered(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.hub.shut_down()
        exchange = client.run(poll)
        await exchange.wait_returned()
        assert exchange.status == 503
        assert await poll.ref.wait_ended() == ShutDown()
    assert poll.reasons == []


async def test_a_handler_that_cannot_be_made_gets_500_and_no_terminate(autojump_clock, caplog):
    reasons = []

    class Unmade(Poll):
        def __init__(self):
            raise Boom

        def terminate(self, reason):
            reasons.append(reason)

    async with serve() as client:
        exchange = client.open(app=client.hub.endpoint(Unmade))
        await exchange.wait_returned()
        assert exchange.status == 500
    assert reasons == []
    assert "no handler for GET /" in caplog.text


async def test_terminate_meets_a_half_made_handler_when_init_crashes(autojump_clock):
    class Half(Poll):
        def init(self, request):
            raise Boom

        def terminate(self, reason):
            self.reasons.append((reason.callback, hasattr(self, "user")))

    half = Half()
    async with serve() as client:
        client.run(half)
        await settle()
        assert half.reasons == [("init", False)]


# -- shielded, bounded, contained ------------------------------------------------------------------


@pytest.mark.parametrize("end", ["cancel", "disconnect"])
async def test_terminate_is_shielded_from_what_ended_the_handler(autojump_clock, end):
    finished = []

    async def terminate(reason):
        await trio.sleep(3)
        finished.append(trio.current_time())

    poll = Poll(terminate=terminate)
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        getattr(exchange, end)()
        await poll.ref.wait_ended()
        assert finished == [3.0]


async def test_terminate_is_shielded_from_the_cancellation_of_the_whole_run(autojump_clock):
    finished = []

    async def terminate(reason):
        await trio.sleep(3)
        finished.append(reason)

    poll = Poll(terminate=terminate)
    with trio.CancelScope() as scope:
        async with serve() as client:
            client.run(poll)
            await settle()
            scope.cancel()
            await trio.sleep_forever()
    assert finished == [ShutDown()]


async def test_a_terminate_that_hangs_is_cut_after_terminate_timeout_and_reported(
    autojump_clock, caplog
):
    class Hanging(Poll):
        async def terminate(self, reason):
            super().terminate(reason)
            await trio.sleep_forever()

    poll = Hanging(terminate_timeout=2.0)
    async with serve() as client:
        client.run(poll)
        await settle()
        with caplog.at_level(logging.ERROR, "trioloop"):
            poll.ref.send_nowait(Stop())
            assert await poll.ref.wait_ended() == Stopped()
        assert trio.current_time() == 2.0
        assert "terminate" in caplog.text
        assert "2 s" in caplog.text


async def test_a_terminate_that_hangs_is_cut_after_5_seconds_by_default(autojump_clock):
    poll = Poll(terminate=hangs)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.stop()
        await poll.ref.wait_ended()
        assert trio.current_time() == 5.0


async def test_a_terminate_that_ends_at_once_is_not_reported(autojump_clock, caplog):
    poll = Poll(terminate=sleeps)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.stop()
        await poll.ref.wait_ended()
    assert caplog.text == ""


@pytest.mark.parametrize("terminate", [raises, raises_later])
async def test_what_terminate_raises_is_reported_and_never_replaces_the_reason(
    autojump_clock, terminate, caplog
):
    poll, watcher = Poll(terminate=terminate), Poll()
    async with serve() as client:
        client.run(poll)
        client.run(watcher)
        await settle()
        watcher.monitor(poll.ref)
        poll.ref.send_nowait(Stop())
        assert await poll.ref.wait_ended() == Stopped()
        await settle()
        assert [down.reason for down in watcher.handled] == [Stopped()]
    assert "Boom in terminate" in caplog.text


async def test_what_terminate_raises_does_not_replace_a_crash(autojump_clock):
    poll = Poll(lambda message: 1 / 0, terminate=raises)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("crash")
        reason = await poll.ref.wait_ended()
        assert isinstance(reason, Crashed)
        assert isinstance(reason.error, ZeroDivisionError)


async def test_a_terminate_that_returns_a_command_changes_nothing(autojump_clock):
    poll = Poll(terminate=lambda reason: Reply(200, "too late"))
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        poll.ref.send_nowait(Stop())
        assert await poll.ref.wait_ended() == Stopped()
        await exchange.wait_returned()
        assert (exchange.status, exchange.body) == (204, b"")


async def test_a_bad_return_is_the_error_of_the_crash(autojump_clock):
    poll = Poll(lambda message: "text")
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("message")
        reason = await poll.ref.wait_ended()
        assert isinstance(reason, Crashed)
        assert isinstance(reason.error, BadReturn)
        assert (reason.error.callback, reason.error.value) == ("info", "text")


# -- KeyboardInterrupt and SystemExit --------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("callback", ["init", "info", "idle"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_ends_the_process_runs_terminate_and_goes_on(error, callback, asynchronous):
    def interrupt(*args):
        raise error

    async def interrupt_later(*args):
        await trio.sleep(0.125)
        raise error

    function = interrupt_later if asynchronous else interrupt
    poll = Poll(idle_timeout=1.0, **{callback: function})

    async def run():
        async with serve() as client:
            client.run(poll)
            await settle()
            if callback == "info":
                poll.ref.send_nowait("message")
            await trio.sleep(10)

    with pytest.raises(BaseExceptionGroup) as info:
        run_on_virtual_time(run)
    matching, rest = info.value.split(error)
    assert matching is not None
    assert rest is None
    assert len(poll.reasons) == 1
    assert poll.reasons == [ShutDown()]


def test_other_handlers_terminate_too_when_one_ends_the_process():
    def interrupt(message):
        raise KeyboardInterrupt

    poll, bystander = Poll(interrupt), Poll()

    async def run():
        async with serve() as client:
            client.run(poll)
            client.run(bystander)
            await settle()
            poll.ref.send_nowait("message")
            await trio.sleep(10)

    with pytest.raises(BaseExceptionGroup):
        run_on_virtual_time(run)
    assert bystander.reasons == [ShutDown()]
