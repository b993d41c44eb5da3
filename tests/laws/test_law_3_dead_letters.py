"""Law 3: an accepted message is handled, or it is a dead letter. None disappears."""

from __future__ import annotations

import logging

import pytest
import trio
from support.fake import Graveyard, Parent, Poll, serve, settle

from trioloop import (
    Chunk,
    Crashed,
    Disconnected,
    Failed,
    KeepLatest,
    Overflow,
    Overflowed,
    Postpone,
    Reply,
    SendAfter,
    ShutDown,
    StartResponse,
    Stop,
    Stopped,
    Then,
    TimedOut,
)


async def fill_and_end(client, poll, end):
    """Let three messages wait behind a busy callback, then end the handler."""
    exchange = client.run(poll)
    await settle()
    poll.ref.send_nowait("busy")
    await settle()
    for number in range(3):
        assert poll.ref.send_nowait(number)
    end(exchange, poll)
    await poll.ref.wait_ended()


def busy(then=None):
    """Answer to the message ``"busy"``: one second, then this command."""

    async def answer(message):
        await trio.sleep(1)
        if isinstance(then, Exception):
            raise then
        return then

    return answer


ENDINGS = {
    "Stopped": (Stop(), lambda exchange, poll: None, Stopped()),
    "Reply": (Reply(200, "x"), lambda exchange, poll: None, Stopped()),
    "TimedOut": (Stop(TimedOut()), lambda exchange, poll: None, TimedOut()),
    "Disconnected": (None, lambda exchange, poll: exchange.disconnect(), Disconnected()),
    "cancelled": (None, lambda exchange, poll: exchange.cancel(), ShutDown()),
    "ref.stop": (None, lambda exchange, poll: poll.ref.stop(), ShutDown()),
}


@pytest.mark.parametrize("name", ENDINGS)
async def test_messages_that_wait_at_the_end_are_dead_letters_with_the_reason_as_cause(
    autojump_clock, name
):
    command, end, reason = ENDINGS[name]
    graveyard = Graveyard()
    poll = Poll(busy(command))
    async with serve(dead_letter=graveyard) as client:
        await fill_and_end(client, poll, end)
        assert poll.reasons == [reason]
        assert graveyard.letters == [(0, reason), (1, reason), (2, reason)]
        assert poll.handled == ["busy"]


async def test_messages_that_wait_at_a_crash_have_the_crash_as_cause(autojump_clock):
    graveyard, error = Graveyard(), ValueError("boom")
    poll = Poll(busy(error))
    async with serve(dead_letter=graveyard) as client:
        await fill_and_end(client, poll, lambda exchange, poll: None)
        assert graveyard.letters == [(number, Crashed(error, "info")) for number in range(3)]


async def test_messages_that_wait_at_an_overflow_have_it_as_cause(autojump_clock):
    graveyard = Graveyard()
    poll = Poll(busy(), mailbox_size=3)
    async with serve(dead_letter=graveyard) as client:
        await fill_and_end(client, poll, lambda exchange, poll: poll.ref.send_nowait("too many"))
        cause = Overflowed("mailbox", 3)
        assert graveyard.letters == [(number, cause) for number in range(3)]


async def test_a_message_that_drop_oldest_displaces_has_the_policy_as_cause(autojump_clock):
    graveyard = Graveyard()
    poll = Poll(busy(), mailbox_size=2, overflow=Overflow.DROP_OLDEST)
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("busy")
        await settle()
        for number in range(5):
            assert poll.ref.send_nowait(number)
        await trio.sleep(10)
        assert graveyard.letters == [(number, Overflow.DROP_OLDEST) for number in range(3)]
        assert poll.handled == ["busy", 3, 4]


async def test_a_message_that_keep_latest_displaces_has_the_policy_as_cause(autojump_clock):
    graveyard, policy = Graveyard(), KeepLatest(lambda message: "key")
    poll = Poll(busy(), overflow=policy)
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("busy")
        await settle()
        for number in range(3):
            assert poll.ref.send_nowait(number)
        await trio.sleep(10)
        assert graveyard.letters == [(0, policy), (1, policy)]
        assert poll.handled == ["busy", 2]


async def test_a_postponed_message_that_never_has_its_turn_is_a_dead_letter(autojump_clock):
    graveyard = Graveyard()
    poll = Poll(lambda message: Stop() if message == "end" else Postpone())
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("postponed")
        poll.ref.send_nowait("end")
        await poll.ref.wait_ended()
        assert graveyard.letters == [("postponed", Stopped())]


async def test_a_message_that_is_postponed_by_the_callback_that_stops_is_a_dead_letter(
    autojump_clock,
):
    graveyard = Graveyard()
    poll = Poll(lambda message: [Postpone(), Stop()])
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("postponed")
        await poll.ref.wait_ended()
        assert graveyard.letters == [("postponed", Stopped())]


async def test_a_then_message_whose_handler_ends_first_is_a_dead_letter(autojump_clock):
    graveyard = Graveyard()
    poll = Poll(lambda message: [Then("then"), Stop()])
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("message")
        await poll.ref.wait_ended()
        assert graveyard.letters == [("then", Stopped())]


async def test_a_timer_that_was_due_before_the_end_is_a_dead_letter_and_a_later_one_is_nothing(
    autojump_clock,
):
    graveyard = Graveyard()

    async def answer(message):
        await trio.sleep(2)
        return Stop()

    poll = Poll(answer, init=lambda request: [SendAfter(1, "due"), SendAfter(9, "never")])
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("busy")
        await poll.ref.wait_ended()
        assert graveyard.letters == [("due", Stopped())]


async def test_a_notification_that_is_not_handled_is_a_dead_letter_by_its_content(autojump_clock):
    graveyard = Graveyard()
    poll = Poll(busy(Stop()))
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("busy")
        poll.ref.notify("content")
        await poll.ref.wait_ended()
        assert graveyard.letters == [("content", Stopped())]


async def test_a_message_handed_to_a_waiting_handler_that_ends_at_once_is_a_dead_letter(
    autojump_clock,
):
    graveyard = Graveyard()
    poll = Poll()
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        assert poll.ref.send_nowait("handed over")
        poll.ref.stop()
        assert await poll.ref.wait_ended() == ShutDown()
        assert poll.handled == []
        assert graveyard.letters == [("handed over", ShutDown())]


async def test_a_message_whose_async_callback_could_not_start_is_a_dead_letter(autojump_clock):
    graveyard = Graveyard()

    async def later():
        raise AssertionError("the write before it has failed")

    def answer(message):
        return later() if message == "async" else message

    poll = Poll(answer)
    async with serve(dead_letter=graveyard) as client:
        exchange = client.run(poll)
        await settle()
        exchange.fail_sends(OSError("gone"))
        poll.ref.send_nowait([StartResponse(200), Chunk("x")])
        poll.ref.send_nowait("async")
        assert await poll.ref.wait_ended() == Disconnected()
        assert graveyard.letters == [("async", Disconnected())]


@pytest.mark.parametrize("shielded", [False, True])
async def test_a_message_whose_async_callback_waited_for_a_stuck_write_is_a_dead_letter(
    autojump_clock, shielded
):
    graveyard = Graveyard()

    async def later():
        raise AssertionError("the write before it has failed")

    poll = Poll(lambda message: later() if message == "async" else message, send_timeout=2.0)
    async with serve(dead_letter=graveyard) as client:
        exchange = client.run(poll)
        await settle()
        exchange.stall(shielded=shielded)
        poll.ref.send_nowait([StartResponse(200), Chunk("x")])
        poll.ref.send_nowait("async")
        reason = await poll.ref.wait_ended()
        assert isinstance(reason, Failed)
        assert graveyard.letters == [("async", reason)]


async def test_what_send_from_thread_could_not_deliver_is_a_dead_letter(autojump_clock):
    graveyard = Graveyard()
    poll = Poll()
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        poll.ref.stop()
        await poll.ref.wait_ended()
        poll.ref.send_from_thread("late")
        await settle()
        assert graveyard.letters == [("late", ShutDown())]


@pytest.mark.parametrize("policy", [Overflow.DROP_NEWEST, Overflow.BLOCK])
async def test_what_send_from_thread_could_not_fit_in_is_a_dead_letter_by_policy(
    autojump_clock, policy
):
    graveyard = Graveyard()
    poll = Poll(busy(), mailbox_size=1, overflow=policy)
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("busy")
        await settle()
        poll.ref.send_from_thread("fits")
        await settle()
        poll.ref.send_from_thread("too many")
        await settle()
        assert graveyard.letters == [("too many", policy)]


async def test_dead_letters_are_counted_without_a_hook_too(autojump_clock):
    poll = Poll(busy(Stop()))
    async with serve() as client:
        await fill_and_end(client, poll, lambda exchange, poll: None)
        assert client.hub.statistics().dead_letters == 3


async def test_the_hook_gets_the_ref_of_the_handler(autojump_clock):
    refs = []
    poll = Poll(busy(Stop()))
    async with serve(dead_letter=lambda ref, message, cause: refs.append(ref)) as client:
        await fill_and_end(client, poll, lambda exchange, poll: None)
        assert refs == [poll.ref] * 3


async def test_a_hook_that_raises_is_logged_and_the_other_letters_reach_it(autojump_clock, caplog):
    letters = []

    def dead_letter(ref, message, cause):
        letters.append(message)
        raise ValueError("the hook is broken")

    poll = Poll(busy(Stop()))
    async with serve(dead_letter=dead_letter) as client:
        with caplog.at_level(logging.ERROR, "trioloop"):
            await fill_and_end(client, poll, lambda exchange, poll: None)
    assert letters == [0, 1, 2]
    assert caplog.text.count("the dead_letter hook raised") == 3
    assert poll.reasons == [Stopped()]


async def test_dead_letters_are_given_out_before_terminate(autojump_clock):
    events = []
    poll = Poll(busy(Stop()), terminate=lambda reason: events.append("terminate"))
    async with serve(dead_letter=lambda *letter: events.append("letter")) as client:
        await fill_and_end(client, poll, lambda exchange, poll: None)
    assert events == ["letter"] * 3 + ["terminate"]


async def test_a_refused_message_is_the_senders_to_know_and_no_dead_letter(autojump_clock):
    graveyard = Graveyard()
    poll = Poll(busy(), mailbox_size=1, overflow=Overflow.DROP_NEWEST)
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("busy")
        await settle()
        assert poll.ref.send_nowait("fits")
        assert not poll.ref.send_nowait("refused")
        await trio.sleep(5)
        assert graveyard.letters == []


async def test_a_message_to_a_handler_that_has_ended_is_the_senders_to_know(autojump_clock):
    graveyard = Graveyard()
    poll = Poll()
    async with serve(dead_letter=graveyard) as client:
        client.run(poll)
        await settle()
        poll.ref.stop()
        assert not poll.ref.send_nowait("late")
        assert not await poll.ref.send("late")
        assert not poll.ref.notify("late")
        await poll.ref.wait_ended()
        assert graveyard.letters == []


# -- the very instant of a deadline ----------------------------------------------------------------


@pytest.mark.parametrize("attempt", range(20))
async def test_a_message_accepted_at_the_very_instant_of_the_idle_timeout_wins(
    autojump_clock, attempt
):
    poll = Poll(idle_timeout=1.0)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(1)
        accepted = poll.ref.send_nowait("just in time")
        await settle()
        assert poll.handled == (["just in time"] if accepted else [])
        assert poll.reasons == ([] if accepted else [TimedOut()])


async def test_a_timer_of_the_very_instant_of_the_idle_timeout_wins(autojump_clock):
    poll = Poll(init=lambda request: SendAfter(1, "ring"), idle_timeout=1.0)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(1.5)
        assert (poll.handled, poll.times, poll.reasons) == (["ring"], [1.0], [])


async def test_a_message_sent_after_the_wait_was_cancelled_is_not_lost(autojump_clock):
    poll = Parent()
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.children.cancel_scope.cancel()  # the loop has not run since when the message comes
        assert poll.ref.send_nowait("message")
        await settle()
        assert poll.handled == ["message"]
