"""What a full mailbox does, policy by policy."""

from __future__ import annotations

import math

import pytest
import trio
from support.fake import Graveyard, Parent, Poll, serve, settle

from trioloop import Crashed, Hibernate, KeepLatest, Overflow, Overflowed, SendAfter


def policy_name(policy):
    return getattr(policy, "name", "KeepLatest")


async def busy(message):
    await trio.sleep(1)


async def start_busy(client, poll):
    """Run the handler and let it work on a first message, so that its mailbox is empty."""
    exchange = client.run(poll)
    await settle()
    assert poll.ref.send_nowait("busy")
    await settle()
    return exchange


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("policy", list(Overflow), ids=policy_name)
async def test_the_limit_counts_messages_accepted_and_not_started_when_busy(
    autojump_clock, policy, size
):
    poll = Poll(busy, mailbox_size=size, overflow=policy)
    async with serve() as client:
        await start_busy(client, poll)
        assert all(poll.ref.send_nowait(number) for number in range(size))
        assert poll.ref.statistics().messages_waiting == size
        assert poll.reasons == []
        assert try_to_send(poll, "too many") is (policy is Overflow.DROP_OLDEST)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("policy", list(Overflow), ids=policy_name)
async def test_the_limit_is_the_same_when_the_handler_waits(autojump_clock, policy, size):
    poll = Poll(mailbox_size=size, overflow=policy)
    async with serve() as client:
        client.run(poll)
        await settle()
        assert all(poll.ref.send_nowait(number) for number in range(size))
        assert try_to_send(poll, "too many") is (policy is Overflow.DROP_OLDEST)


@pytest.mark.parametrize("policy", list(Overflow), ids=policy_name)
async def test_a_started_message_makes_room_for_one(autojump_clock, policy):
    poll = Poll(busy, mailbox_size=1, overflow=policy)
    async with serve() as client:
        await start_busy(client, poll)
        assert poll.ref.send_nowait(1)
        await trio.sleep(1.5)
        assert poll.handled == ["busy", 1]
        assert poll.ref.send_nowait(2)


def try_to_send(poll, message):
    try:
        return poll.ref.send_nowait(message)
    except trio.WouldBlock:
        return False


# -- STOP ------------------------------------------------------------------------------------------


async def test_stop_ends_the_handler_with_overflowed(autojump_clock):
    poll = Poll(busy, mailbox_size=2)
    async with serve() as client:
        exchange = await start_busy(client, poll)
        assert [poll.ref.send_nowait(number) for number in range(3)] == [True, True, False]
        assert await poll.ref.wait_ended() == Overflowed("mailbox", 2)
        await exchange.wait_returned()
        assert exchange.status == 503


async def test_stop_does_not_cancel_the_running_callback(autojump_clock):
    poll = Poll(busy, mailbox_size=1)
    async with serve() as client:
        await start_busy(client, poll)
        poll.ref.send_nowait(1)
        poll.ref.send_nowait(2)
        await poll.ref.wait_ended()
        assert poll.ended_at == 1.0


async def test_stop_ends_a_waiting_handler_at_once(autojump_clock):
    poll = Poll(mailbox_size=1)
    async with serve() as client:
        client.run(poll)
        await settle()
        assert [poll.ref.send_nowait(number) for number in range(2)] == [True, False]
        assert await poll.ref.wait_ended() == Overflowed("mailbox", 1)
        assert poll.handled == []


async def test_after_an_overflow_nothing_more_is_accepted(autojump_clock):
    poll = Poll(busy, mailbox_size=1)
    async with serve() as client:
        await start_busy(client, poll)
        assert [poll.ref.send_nowait(number) for number in range(4)] == [True, False, False, False]


async def test_a_broadcast_counts_those_who_accepted(autojump_clock):
    full, fine = Poll(busy, mailbox_size=1), Poll()
    async with serve() as client:
        await start_busy(client, full)
        client.run(fine)
        await settle()
        full.join("group")
        fine.join("group")
        assert client.hub.broadcast("group", 1) == 2
        assert client.hub.broadcast("group", 2) == 1
        assert client.hub.broadcast("group", 3) == 1


# -- DROP_NEWEST -----------------------------------------------------------------------------------


async def test_drop_newest_keeps_the_old_ones(autojump_clock):
    poll = Poll(busy, mailbox_size=2, overflow=Overflow.DROP_NEWEST)
    async with serve() as client:
        await start_busy(client, poll)
        assert [poll.ref.send_nowait(n) for n in range(5)] == [True, True, False, False, False]
        await trio.sleep(10)
        assert poll.handled == ["busy", 0, 1]
        assert poll.reasons == []


async def test_drop_newest_refuses_async_senders_without_waiting(autojump_clock):
    poll = Poll(busy, mailbox_size=1, overflow=Overflow.DROP_NEWEST)
    async with serve() as client:
        await start_busy(client, poll)
        assert await poll.ref.send(1) is True
        assert await poll.ref.send(2) is False
        assert trio.current_time() == 0.0


# -- DROP_OLDEST -----------------------------------------------------------------------------------


async def test_drop_oldest_keeps_the_new_ones(autojump_clock):
    poll = Poll(busy, mailbox_size=2, overflow=Overflow.DROP_OLDEST)
    async with serve() as client:
        await start_busy(client, poll)
        assert all(poll.ref.send_nowait(number) for number in range(5))
        await trio.sleep(10)
        assert poll.handled == ["busy", 3, 4]


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_drop_oldest_reaches_a_message_that_was_handed_to_the_waiting_handler(
    autojump_clock, size
):
    graveyard = Graveyard()
    poll = Poll(mailbox_size=size, overflow=Overflow.DROP_OLDEST)
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        for number in range(6):
            assert poll.ref.send_nowait(number)
        await settle()
        assert poll.handled == list(range(6 - size, 6))
        assert sorted(number for number, _ in graveyard.letters) == list(range(6 - size))


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_drop_oldest_is_exact_when_the_wait_was_interrupted_in_the_same_moment(
    autojump_clock, size
):
    graveyard = Graveyard()
    poll = Parent(mailbox_size=size, overflow=Overflow.DROP_OLDEST)
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        poll.children.cancel_scope.cancel()  # the handler wakes up, and has not run yet
        for number in range(6):
            assert poll.ref.send_nowait(number)
        await settle()
        assert poll.handled == list(range(6 - size, 6))
        assert sorted(number for number, _ in graveyard.letters) == list(range(6 - size))
        poll.ref.send_nowait("next")
        await settle()
        assert poll.handled[-1] == "next"


async def test_drop_oldest_in_a_handed_over_moment_goes_on_working_afterwards(autojump_clock):
    poll = Poll(mailbox_size=1, overflow=Overflow.DROP_OLDEST)
    async with serve() as client:
        client.run(poll)
        for round_ in range(4):
            await settle()
            poll.ref.send_nowait((round_, "displaced"))
            poll.ref.send_nowait((round_, "kept"))
        await settle()
        assert poll.handled == [(round_, "kept") for round_ in range(4)]


async def test_drop_oldest_buries_a_handed_over_message_once_when_the_handler_ends(autojump_clock):
    graveyard = Graveyard()
    poll = Poll(mailbox_size=1, overflow=Overflow.DROP_OLDEST)
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("displaced")
        poll.ref.send_nowait("kept")
        poll.ref.stop()
        reason = await poll.ref.wait_ended()
        assert graveyard.letters == [("displaced", Overflow.DROP_OLDEST), ("kept", reason)]


async def test_drop_oldest_is_exact_while_the_handler_goes_to_hibernate(autojump_clock):
    graveyard = Graveyard()
    poll = Poll(lambda message: Hibernate(), mailbox_size=1, overflow=Overflow.DROP_OLDEST)
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        for number in range(200):
            assert poll.ref.send_nowait(number)
            await trio.lowlevel.checkpoint()
        await settle()
        assert poll.reasons == []
        buried = [number for number, _ in graveyard.letters]
        assert sorted([*poll.handled, *buried]) == list(range(200))


async def test_a_message_that_wakes_a_hibernating_handler_counts_until_it_is_handled(
    autojump_clock,
):
    poll = Poll(init=lambda r: Hibernate(), mailbox_size=1, overflow=Overflow.DROP_NEWEST)
    async with serve() as client:
        client.run(poll)
        await settle()
        assert poll.ref.send_nowait("first")
        assert poll.ref.statistics().messages_waiting == 1
        assert not poll.ref.send_nowait("too many")
        await settle()
        assert poll.handled == ["first"]


# -- BLOCK -----------------------------------------------------------------------------------------


async def test_block_raises_would_block_without_waiting(autojump_clock):
    poll = Poll(busy, mailbox_size=1, overflow=Overflow.BLOCK)
    async with serve() as client:
        await start_busy(client, poll)
        poll.ref.send_nowait("full")
        with pytest.raises(trio.WouldBlock):
            poll.ref.send_nowait("too many")
        with pytest.raises(trio.WouldBlock):
            poll.ref.notify("too many")
        await trio.sleep(5)
        assert poll.handled == ["busy", "full"]


async def test_block_lets_senders_wait_for_room(autojump_clock):
    poll = Poll(busy, mailbox_size=1, overflow=Overflow.BLOCK)
    async with serve() as client:
        await start_busy(client, poll)
        poll.ref.send_nowait("full")
        assert await poll.ref.send("waited") is True
        assert trio.current_time() == 1.0
        await trio.sleep(5)
        assert poll.handled == ["busy", "full", "waited"]


async def test_block_serves_waiting_senders_in_the_order_of_their_coming(autojump_clock):
    poll = Poll(busy, mailbox_size=1, overflow=Overflow.BLOCK)
    async with serve() as client, trio.open_nursery() as nursery:
        await start_busy(client, poll)
        poll.ref.send_nowait("full")
        for number in range(8):
            nursery.start_soon(poll.ref.send, number)
            await settle()
        await trio.sleep(20)
        assert poll.handled == ["busy", "full", *range(8)]


async def test_block_gives_no_place_of_a_waiting_sender_to_one_that_comes_later(autojump_clock):
    poll = Poll(busy, mailbox_size=1, overflow=Overflow.BLOCK)
    refused = []

    async def push_in():
        while len(poll.handled) < 2:
            try:
                poll.ref.send_nowait("pushed in")
            except trio.WouldBlock:
                refused.append(trio.current_time())
            await trio.sleep(0.125)

    async with serve() as client, trio.open_nursery() as nursery:
        await start_busy(client, poll)
        poll.ref.send_nowait("full")
        nursery.start_soon(poll.ref.send, "waited")
        await settle()
        nursery.start_soon(push_in)
        await trio.sleep(10)
        assert poll.handled[:3] == ["busy", "full", "waited"]
        assert refused


async def test_block_takes_back_the_place_of_a_sender_that_was_cancelled(autojump_clock):
    poll = Poll(busy, mailbox_size=1, overflow=Overflow.BLOCK)
    async with serve() as client:
        await start_busy(client, poll)
        poll.ref.send_nowait("full")
        with trio.move_on_after(0.5) as scope:
            await poll.ref.send("cancelled")
        assert scope.cancelled_caught
        await trio.sleep(5)
        assert poll.handled == ["busy", "full"]
        assert poll.ref.send_nowait("room again")


@pytest.mark.parametrize("attempt", range(10))
async def test_block_loses_no_place_when_a_sender_is_cancelled_at_the_moment_of_its_turn(
    autojump_clock, attempt
):
    graveyard = Graveyard()
    poll = Poll(busy, mailbox_size=1, overflow=Overflow.BLOCK)
    accepted = []

    async def send(name, deadline):
        with trio.move_on_at(deadline):
            if await poll.ref.send(name):
                accepted.append(name)

    async with serve(dead_letter=graveyard) as client, trio.open_nursery() as nursery:
        await start_busy(client, poll)
        poll.ref.send_nowait("full")
        nursery.start_soon(send, "tie", 1.0)
        await settle()
        nursery.start_soon(send, "patient", math.inf)
        await trio.sleep(10)
        assert poll.handled == ["busy", "full", *accepted]
        assert accepted in (["patient"], ["tie", "patient"])
        assert poll.ref.send_nowait("room")


async def test_block_tells_waiting_senders_that_the_handler_has_ended(autojump_clock):
    poll = Poll(busy, mailbox_size=1, overflow=Overflow.BLOCK)
    results = []

    async def send(message):
        results.append(await poll.ref.send(message))

    async with serve() as client:
        exchange = await start_busy(client, poll)
        poll.ref.send_nowait("full")
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(send, number)
            await settle()
            exchange.disconnect()
        assert results == [False] * 3
        assert trio.current_time() == 0.0


async def test_block_never_holds_more_than_its_size_when_a_timer_fires(autojump_clock):
    poll = Poll(busy, mailbox_size=1, overflow=Overflow.BLOCK, init=lambda r: SendAfter(0.5, "t"))
    async with serve() as client, trio.open_nursery() as nursery:
        await start_busy(client, poll)
        poll.ref.send_nowait("full")
        nursery.start_soon(poll.ref.send, "waited")
        await trio.sleep(1.5)
        # "full" has been started, the timer's message fills the mailbox again.
        assert poll.handled == ["busy", "full"]
        assert poll.ref.statistics().messages_waiting == 1


async def test_a_broadcast_passes_over_a_full_mailbox_that_blocks(autojump_clock):
    poll = Poll(busy, mailbox_size=1, overflow=Overflow.BLOCK)
    async with serve() as client:
        await start_busy(client, poll)
        poll.join("group")
        assert client.hub.broadcast("group", 1) == 1
        assert client.hub.broadcast("group", 2) == 0


# -- KeepLatest ------------------------------------------------------------------------------------


def first(message):
    return message[0]


async def test_keep_latest_coalesces_by_key_also_when_there_is_room(autojump_clock):
    poll = Poll(busy, overflow=KeepLatest(first))
    async with serve() as client:
        await start_busy_with(client, poll, ("busy", 0))
        for message in (("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)):
            assert poll.ref.send_nowait(message)
        assert poll.ref.statistics().messages_waiting == 2
        await trio.sleep(5)
        assert poll.handled == [("busy", 0), ("a", 3), ("b", 2)]


async def start_busy_with(client, poll, message):
    client.run(poll)
    await settle()
    assert poll.ref.send_nowait(message)
    await settle()


async def test_keep_latest_coalesces_a_message_that_was_handed_to_the_waiting_handler(
    autojump_clock,
):
    poll = Poll(overflow=KeepLatest(first))
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait(("a", 1))
        poll.ref.send_nowait(("a", 2))
        await settle()
        assert poll.handled == [("a", 2)]


async def test_keep_latest_does_not_coalesce_with_a_message_that_has_started(autojump_clock):
    poll = Poll(busy, overflow=KeepLatest(first))
    async with serve() as client:
        await start_busy_with(client, poll, ("a", 1))
        poll.ref.send_nowait(("a", 2))
        await trio.sleep(5)
        assert poll.handled == [("a", 1), ("a", 2)]


async def test_keep_latest_never_coalesces_key_none(autojump_clock):
    poll = Poll(busy, overflow=KeepLatest(lambda message: None))
    async with serve() as client:
        await start_busy(client, poll)
        for number in range(3):
            poll.ref.send_nowait(number)
        await trio.sleep(5)
        assert poll.handled == ["busy", 0, 1, 2]


async def test_keep_latest_full_of_distinct_keys_acts_as_stop(autojump_clock):
    poll = Poll(busy, mailbox_size=2, overflow=KeepLatest(first))
    async with serve() as client:
        await start_busy_with(client, poll, ("busy", 0))
        assert poll.ref.send_nowait(("a", 1))
        assert poll.ref.send_nowait(("b", 1))
        assert poll.ref.send_nowait(("a", 2))
        assert not poll.ref.send_nowait(("c", 1))
        assert await poll.ref.wait_ended() == Overflowed("mailbox", 2)


@pytest.mark.parametrize("key", [first, lambda message: []], ids=["raises", "unhashable"])
async def test_a_key_function_that_fails_is_the_handlers_crash_and_not_the_senders(
    autojump_clock, key
):
    poll = Poll(overflow=KeepLatest(key))
    async with serve() as client:
        client.run(poll)
        await settle()
        assert poll.ref.send_nowait(None) is False
        reason = await poll.ref.wait_ended()
        assert isinstance(reason, Crashed)
        assert (type(reason.error), reason.callback) == (TypeError, "overflow")


async def test_the_key_function_gets_the_content_of_a_notification(autojump_clock):
    poll = Poll(busy, overflow=KeepLatest(first))
    async with serve() as client:
        await start_busy_with(client, poll, ("busy", 0))
        assert poll.ref.notify(("a", 1))
        assert poll.ref.notify(("a", 2))
        await trio.sleep(5)
        assert poll.reasons == []
        assert poll.handled == [("busy", 0), ("a", 2)]


async def test_the_key_function_does_not_see_messages_of_the_machine(autojump_clock):
    poll = Poll(overflow=KeepLatest(first), init=lambda request: SendAfter(1, "t"))
    async with serve() as client:
        client.run(poll)
        await trio.sleep(2)
        assert (poll.handled, poll.reasons) == (["t"], [])


# -- beyond the limit ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "policy", [*Overflow, KeepLatest(lambda message: message)], ids=policy_name
)
async def test_timers_and_monitors_are_accepted_beyond_the_limit(autojump_clock, policy):
    poll, other = Poll(busy, mailbox_size=1, overflow=policy), Poll()
    poll.init = lambda request: [SendAfter(0.25, f"timer {number}") for number in range(3)]
    async with serve() as client:
        client.run(other)
        await start_busy(client, poll)
        poll.monitor(other.ref)
        poll.ref.send_nowait("full")
        await trio.sleep(0.5)
        other.ref.stop()
        await trio.sleep(20)
        assert poll.reasons == []
        assert {"full", "timer 0", "timer 1", "timer 2"} < set(poll.handled)
        assert len(poll.handled) == 6


async def test_an_infinite_mailbox_is_never_full(autojump_clock):
    poll = Poll(busy, mailbox_size=math.inf)
    async with serve() as client:
        await start_busy(client, poll)
        assert all(poll.ref.send_nowait(number) for number in range(5000))
