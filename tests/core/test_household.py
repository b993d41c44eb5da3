"""The nursery of a handler, which is opened where it is first needed."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from trioloop import App, Crashed, EventStreamHandler, LoopHandler, ShutDown
from trioloop._core._household import Household

NOBODY: Any = None


class Parent(EventStreamHandler):
    """Uses its nursery in the message with this number; 0 is ``init``."""

    use_at = 0
    asynchronous = False

    def init(self, request):
        self.messages = -1
        return self.info("init")

    def info(self, message):
        self.messages += 1
        use = self.use_later if self.asynchronous else self.use
        return use() if self.messages == self.use_at else None

    def use(self):
        self.nursery.start_soon(self.child)

    async def use_later(self):
        with trio.move_on_after(1):
            await trio.lowlevel.checkpoint()
            self.nursery.start_soon(self.child)

    async def child(self):
        try:
            await trio.sleep(1)
            raise ValueError("boom")
        finally:
            self.ended.append(trio.current_time())


@pytest.mark.parametrize("worker", ["trioloop", "stock"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["def", "async def"])
@pytest.mark.parametrize("use_at", [0, 1, 2])
@pytest.mark.parametrize("end", ["crash", "stop"])
async def test_child_tasks_end_with_their_handler_wherever_its_nursery_was_first_used(
    fake_client, worker, asynchronous, use_at, end
):
    app = App()
    options = {"use_at": use_at, "asynchronous": asynchronous, "ended": []}
    app.route("/", type("Parent", (Parent,), options))

    async with fake_client(app, worker=worker) as client:
        stream = await client.get("/")
        for message in range(3):
            client.ref(stream).send_nowait(message)
            await client.settle()
        if end == "stop":
            client.ref(stream).stop()
            await client.settle()
            assert stream.reason == ShutDown()
            assert options["ended"] == [0.0]
        else:
            await client.advance(1)
            assert isinstance(stream.reason, Crashed)
            assert repr(stream.reason.error) == "ValueError('boom')"
            assert stream.reason.callback == "nursery"
            assert options["ended"] == [1.0]


async def test_without_use_it_is_not_even_a_schedule_point():
    with trio.testing.assert_no_checkpoints():
        async with Household(NOBODY):
            pass


async def test_an_opened_one_waits_for_its_tasks(autojump_clock):
    async with Household(NOBODY) as household:
        household.open().start_soon(trio.sleep, 3)
    assert trio.current_time() == 3


async def test_what_is_raised_in_an_opened_one_is_in_a_group_as_anywhere():
    with pytest.raises(ExceptionGroup) as raised:
        async with Household(NOBODY) as household:
            household.open()
            raise ValueError
    assert [type(error) for error in raised.value.exceptions] == [ValueError]


async def test_what_is_raised_in_one_that_was_not_opened_is_bare():
    with pytest.raises(ValueError, match=r"^$"):
        async with Household(NOBODY):
            raise ValueError


@pytest.mark.parametrize("worker", ["trioloop", "stock"])
async def test_what_a_callback_returns_may_crash_where_no_nursery_was_opened(fake_client, worker):
    class Shy:
        def __repr__(self):
            raise ValueError("boom")

    class Returns(LoopHandler):
        def init(self, request):
            return Shy()

    app = App()
    app.route("/", Returns)
    async with fake_client(app, worker=worker) as client:
        poll = await client.get("/")
        await client.settle()
        assert (poll.status, repr(poll.reason.error)) == (500, "ValueError('boom')")
        assert poll.reason.callback == "init"
