"""Law 6: one handler's crash never harms another handler, the hub or the server."""

from __future__ import annotations

import logging

import pytest
import trio
from support.fake import Poll, serve, settle

from trioloop import App, Crashed, EventStreamHandler, KeepLatest, Reply


def raises(*args):
    raise ValueError("boom")


async def raises_later(*args):
    await trio.sleep(0.125)
    raise ValueError("boom")


async def raises_a_group(*args):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raises_later)
        nursery.start_soon(raises_later)


CRASHES = {
    "init": {"init": raises},
    "async init": {"init": raises_later},
    "info": {"answer": raises},
    "async info": {"answer": raises_later},
    "a group": {"answer": raises_a_group},
    "idle": {"idle": raises, "idle_timeout": 1.0},
    "terminate": {"answer": raises, "terminate": raises},
    "async terminate": {"answer": raises, "terminate": raises_later},
    "key": {"overflow": KeepLatest(raises)},
    "bad return": {"answer": lambda message: object()},
}


@pytest.mark.parametrize("crash", CRASHES)
async def test_others_are_served_as_if_nothing_had_happened(autojump_clock, crash):
    bystander, crashing, later = Poll(), Poll(**CRASHES[crash]), Poll()
    async with serve() as client:
        waiting = client.run(bystander)
        client.run(crashing)
        await settle()
        crashing.ref.send_nowait("message")
        assert isinstance(await crashing.ref.wait_ended(), Crashed)
        for poll, exchange in ((bystander, waiting), (later, client.run(later))):
            await settle()
            poll.ref.send_nowait(Reply(200, "fine"))
            await exchange.wait_returned()
            assert (exchange.status, exchange.body) == (200, b"fine")
        assert client.hub.statistics().handlers == 0


async def test_a_crash_of_an_open_response_raises_nothing_into_the_server(autojump_clock):
    class Crashing(EventStreamHandler):
        def info(self, message):
            raise ValueError("boom")

    app = App()
    app.route("/", lambda: handler)
    handler = Crashing()
    async with serve(app) as client:
        exchange = client.open()
        await settle()
        handler.ref.send_nowait("message")
        await exchange.wait_returned()
        assert exchange.aborted
        assert exchange.error is None


async def crash_record(caplog, **request):
    """What is logged when a handler crashes."""
    poll = Poll(raises)
    async with serve() as client:
        client.run(poll, **request)
        await settle()
        with caplog.at_level(logging.ERROR, "trioloop"):
            poll.ref.send_nowait("message")
            await poll.ref.wait_ended()
    [record] = caplog.records
    return record


async def test_a_crash_is_logged_once_with_its_traceback(autojump_clock, caplog):
    record = await crash_record(caplog)
    assert "crashed in info" in record.getMessage()
    assert isinstance(record.exc_info[1], ValueError)


async def test_the_log_says_whose_request_a_handler_has_failed_to_serve(autojump_clock, caplog):
    record = await crash_record(caplog, path="/r\u00e4ume/1\n?token=secret")
    assert " of GET /r%C3%A4ume/1%0A crashed in info: " in record.getMessage()
    assert "secret" not in record.getMessage()


async def test_a_crash_while_a_handler_is_being_ended_is_reported_and_changes_nothing(
    autojump_clock, caplog
):
    async def answer(message):
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("in the clean-up")

    poll, bystander = Poll(answer), Poll()
    async with serve() as client:
        exchange = client.run(poll)
        client.run(bystander)
        await settle()
        poll.ref.send_nowait("message")
        await settle()
        exchange.disconnect()
        await poll.ref.wait_ended()
        assert [type(reason).__name__ for reason in poll.reasons] == ["Disconnected"]
        assert bystander.ref.send_nowait("fine")
    assert "in the clean-up" in caplog.text


async def test_an_error_in_one_key_function_is_not_the_senders(autojump_clock):
    poll = Poll(overflow=KeepLatest(raises))
    async with serve() as client:
        client.run(poll)
        await settle()
        assert poll.ref.send_nowait("message") is False
        reason = await poll.ref.wait_ended()
        assert isinstance(reason, Crashed)
        assert reason.callback == "overflow"


async def test_a_broadcast_reaches_the_others_when_one_member_cannot_take_it(autojump_clock):
    broken, fine = Poll(overflow=KeepLatest(raises)), Poll()
    async with serve() as client:
        for poll in (broken, fine):
            client.run(poll)
            await settle()
            poll.join("group")
        assert client.hub.broadcast("group", "news") == 1
        await settle()
        assert fine.handled == ["news"]
