"""Law 1: callbacks of one handler never overlap."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
from support.fake import Poll, serve, settle

from trioloop import SendAfter


class Slow(Poll):
    """Each callback takes one second and fails when it meets another one."""

    def __init__(self, **attributes):
        super().__init__(**attributes)
        self.running: list[str] = []
        self.order: list[str] = []

    @asynccontextmanager
    async def alone(self, name):
        assert not self.running, f"{name} while {self.running} runs"
        self.running.append(name)
        self.order.append(name)
        try:
            await trio.sleep(1)
            yield
        finally:
            self.running.remove(name)

    async def init(self, request):
        async with self.alone("init"):
            return

    async def info(self, message):
        async with self.alone("info"):
            return message if isinstance(message, self.command_types) else None

    async def notify(self, message):
        async with self.alone("notify"):
            return

    async def idle(self):
        async with self.alone("idle"):
            return

    async def terminate(self, reason):
        async with self.alone("terminate"):
            self.reasons.append(reason)


async def test_a_message_that_comes_during_init_waits_for_its_end(autojump_clock):
    slow = Slow()
    async with serve() as client:
        client.run(slow)
        await trio.sleep(0.5)
        slow.ref.send_nowait("early")
        await trio.sleep(0.25)
        assert slow.order == ["init"]
        await trio.sleep(0.5)
        assert slow.order == ["init", "info"]


async def test_messages_from_many_senders_are_handled_one_after_the_other(autojump_clock):
    slow = Slow()
    async with serve() as client:
        client.run(slow)
        async with trio.open_nursery() as nursery:
            for delay in (0, 1, 1, 1.5, 2, 2):
                nursery.start_soon(send_later, slow, delay)
        await trio.sleep(10)
        assert slow.order == ["init"] + ["info"] * 6


async def send_later(handler, delay):
    await trio.sleep(delay)
    assert await handler.ref.send(delay)


async def test_a_notification_waits_for_info(autojump_clock):
    slow = Slow()
    async with serve() as client:
        client.run(slow)
        await trio.sleep(1)
        slow.ref.send_nowait("message")
        slow.ref.notify("notification")
        await trio.sleep(1.5)
        assert slow.order == ["init", "info", "notify"]


async def test_a_timer_that_fires_during_info_waits_for_its_end(autojump_clock):
    slow = Slow()
    async with serve() as client:
        client.run(slow)
        await trio.sleep(1)
        slow.ref.send_nowait(SendAfter(0.25, "ring"))
        slow.ref.send_nowait("second")
        await trio.sleep(10)
        assert slow.order == ["init", "info", "info", "info"]


async def test_a_message_that_comes_during_idle_waits_for_its_end(autojump_clock):
    slow = Slow(idle_timeout=1.0)
    async with serve() as client:
        client.run(slow)
        await trio.sleep(2.5)
        assert slow.order == ["init", "idle"]
        slow.ref.send_nowait("late")
        await trio.sleep(1)
        assert slow.order == ["init", "idle", "info"]


async def test_idle_does_not_start_while_info_takes_longer_than_the_idle_timeout(autojump_clock):
    slow = Slow(idle_timeout=0.5)
    async with serve() as client:
        client.run(slow)
        await trio.sleep(1.25)
        slow.ref.send_nowait("message")
        await trio.sleep(1)
        assert slow.order == ["init", "info"]


@pytest.mark.parametrize("end", ["disconnect", "cancel", "stop"])
async def test_terminate_starts_when_an_interrupted_callback_has_left(autojump_clock, end):
    slow = Slow()
    async with serve() as client:
        exchange = client.run(slow)
        await trio.sleep(1)
        slow.ref.send_nowait("message")
        await trio.sleep(0.5)
        (slow.ref.stop if end == "stop" else getattr(exchange, end))()
        await slow.ref.wait_ended()
        assert slow.order == ["init", "info", "terminate"]


async def test_terminate_waits_for_a_callback_that_shields_itself(autojump_clock):
    left = []

    async def answer(message):
        with trio.CancelScope(shield=True):
            await trio.sleep(3)
        left.append(trio.current_time())

    poll = Poll(answer)
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        poll.ref.send_nowait("message")
        await trio.sleep(1)
        exchange.disconnect()
        await poll.ref.wait_ended()
        assert (left, poll.ended_at) == ([3.0], 3.0)


async def test_callbacks_of_two_handlers_run_at_the_same_time(autojump_clock):
    slow, other = Slow(), Slow()
    async with serve() as client:
        client.run(slow)
        client.run(other)
        await trio.sleep(0.5)
        assert slow.running == other.running == ["init"]
