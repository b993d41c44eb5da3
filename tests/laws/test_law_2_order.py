"""Law 2: messages are handled in the order of acceptance, but for what says otherwise."""

from __future__ import annotations

import trio
from support.fake import Poll, serve, settle

from trioloop import Down, KeepLatest, Postpone, SendAfter, ShutDown, Then


async def test_messages_of_one_sender_are_handled_in_their_order(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        for number in range(200):
            poll.ref.send_nowait(number)
        await settle()
        assert poll.handled == list(range(200))


async def test_messages_of_several_senders_are_handled_in_the_order_of_acceptance(autojump_clock):
    async def answer(message):
        await trio.sleep(0.25)

    poll = Poll(answer)
    accepted = []

    async def send(name):
        for number in range(5):
            await trio.sleep(0.125)
            assert poll.ref.send_nowait((name, number))
            accepted.append((name, number))

    async with serve() as client:
        client.run(poll)
        await settle()
        async with trio.open_nursery() as nursery:
            for name in "abcd":
                nursery.start_soon(send, name)
        await trio.sleep(10)
        assert poll.handled == accepted
        assert len(accepted) == 20


async def test_send_nowait_send_and_notify_share_one_order(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait(1)
        poll.ref.notify(2)
        await poll.ref.send(3)
        poll.ref.notify(4)
        await settle()
        assert poll.handled == [1, 2, 3, 4]


async def test_a_timer_that_is_due_comes_before_what_is_sent_after_it(autojump_clock):
    poll = Poll(lambda message: SendAfter(1, "ring") if message == "start" else None)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("start")
        await settle()
        await trio.sleep(1)
        poll.ref.send_nowait("after")
        await settle()
        assert poll.handled == ["start", "ring", "after"]


async def test_a_timer_that_is_due_during_a_long_callback_comes_before_later_messages(
    autojump_clock,
):
    async def answer(message):
        if message == "slow":
            await trio.sleep(2)
        return SendAfter(1, "ring") if message == "start" else None

    poll = Poll(answer)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("start")
        poll.ref.send_nowait("slow")
        await trio.sleep(0.5)
        poll.ref.send_nowait("before")
        await trio.sleep(1)
        poll.ref.send_nowait("after")
        await trio.sleep(1)
        assert poll.handled == ["start", "slow", "before", "ring", "after"]


async def test_a_timer_that_is_due_during_a_long_callback_comes_before_a_later_down(autojump_clock):
    async def answer(message):
        await trio.sleep(2)

    other = Poll()
    poll = Poll(answer, init=lambda request: SendAfter(1, "ring"))
    async with serve() as client:
        client.run(poll)
        client.run(other)
        await settle()
        poll.monitor(other.ref)
        poll.ref.send_nowait("slow")
        await trio.sleep(1.5)
        other.ref.stop()
        await trio.sleep(10)
        assert poll.handled == ["slow", "ring", Down(other.ref, ShutDown())]


async def test_timers_of_one_instant_fire_in_the_order_of_their_start(autojump_clock):
    poll = Poll(init=lambda request: [SendAfter(1, number) for number in range(5)])
    async with serve() as client:
        client.run(poll)
        await trio.sleep(1.5)
        assert poll.handled == [0, 1, 2, 3, 4]


async def test_then_comes_before_the_mailbox(autojump_clock):
    poll = Poll(lambda message: Then("then") if message == "first" else None)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("first")
        poll.ref.send_nowait("second")
        await settle()
        assert poll.handled == ["first", "then", "second"]


async def test_postpone_moves_a_message_behind_the_next_other_one(autojump_clock):
    postponed = []

    def answer(message):
        if message == "early" and not postponed:
            postponed.append(message)
            return Postpone()
        return None

    poll = Poll(answer)
    async with serve() as client:
        client.run(poll)
        await settle()
        for message in ("early", "next", "last"):
            poll.ref.send_nowait(message)
        await settle()
        assert poll.handled == ["early", "next", "early", "last"]


async def test_keep_latest_gives_a_newer_message_the_place_of_the_older(autojump_clock):
    poll = Poll(overflow=KeepLatest(lambda message: message[0]))
    async with serve() as client:
        client.run(poll)
        await settle()
        for message in (("a", 1), ("b", 1), ("a", 2), ("c", 1), ("a", 3)):
            poll.ref.send_nowait(message)
        await settle()
        assert poll.handled == [("a", 3), ("b", 1), ("c", 1)]
