"""What a `HandlerRef` can do: send, notify, call, stop, wait, and be looked at."""

from __future__ import annotations

import gc
import math
import threading
import weakref
from functools import partial

import pytest
import trio
import trio.testing
from support.fake import Graveyard, Poll, Stream, serve, settle

from trioloop import (
    Call,
    Crashed,
    HandlerEnded,
    HandlerStatistics,
    Hibernate,
    LoopHandler,
    Overflow,
    Postpone,
    SendAfter,
    ServerSentEvent,
    ShutDown,
    Stop,
    Stopped,
    Then,
    TimedOut,
)


def busy(seconds=1.0):
    async def answer(message):
        await trio.sleep(seconds)

    return answer


# -- sending ---------------------------------------------------------------------------------------


async def test_send_nowait_says_that_the_message_was_accepted(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        assert poll.ref.send_nowait("message") is True
        await settle()
        assert poll.handled == ["message"]


async def test_send_says_that_the_message_was_accepted(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        assert await poll.ref.send("message") is True
        await settle()
        assert poll.handled == ["message"]


async def test_send_is_a_checkpoint_when_there_is_room(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        with trio.testing.assert_checkpoints():
            await poll.ref.send("message")


async def test_a_send_that_is_cancelled_has_sent_nothing(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        with trio.CancelScope() as scope:
            scope.cancel()
            await poll.ref.send("message")
        assert scope.cancelled_caught
        await settle()
        assert poll.handled == []


async def test_a_send_to_oneself_that_is_cancelled_has_sent_nothing(autojump_clock):
    async def answer(message):
        with trio.CancelScope() as scope:
            scope.cancel()
            await poll.ref.send("again")
        assert scope.cancelled_caught

    poll = Poll(answer)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("message")
        await settle()
        assert (poll.handled, poll.reasons) == (["message"], [])


async def test_any_value_is_a_message(autojump_clock):
    poll, values = Poll(), [None, False, 0, "", b"", (), {}, ValueError("x"), Poll, math.nan]
    async with serve() as client:
        client.run(poll)
        await settle()
        for value in values:
            assert poll.ref.send_nowait(value)
        await settle()
        assert poll.handled == values
        assert poll.reasons == [] or poll.reasons[0].callback == "info"


async def test_a_handler_may_send_to_itself(autojump_clock):
    poll = Poll(lambda message: poll.ref.send_nowait("again") and None if message == "x" else None)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("x")
        await settle()
        assert poll.handled == ["x", "again"]


async def test_messages_that_come_before_init_has_ended_are_accepted(autojump_clock):
    poll = Poll(init=lambda request: [poll.ref.send_nowait(n) for n in range(3)] and None)
    async with serve() as client:
        client.run(poll)
        await settle()
        assert poll.handled == [0, 1, 2]


async def test_notify_reaches_notify_with_the_bare_message(autojump_clock):
    notified = []
    poll = Poll(notify=notified.append)
    async with serve() as client:
        client.run(poll)
        await settle()
        assert poll.ref.notify("message") is True
        await settle()
        assert (notified, poll.handled) == (["message"], [])


async def test_notify_reaches_info_by_default(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.notify("message")
        await settle()
        assert poll.handled == ["message"]


async def test_send_from_thread_reaches_info_from_another_thread(autojump_clock):
    poll = Poll(idle_timeout=math.inf)  # the clock jumps while a thread works
    async with serve() as client:
        client.run(poll)
        await settle()
        thread = threading.Thread(target=poll.ref.send_from_thread, args=["message"])
        thread.start()
        thread.join()  # it waits for nothing, so the clock has no time to jump
        await settle()
        assert poll.handled == ["message"]


@pytest.mark.parametrize(
    "call",
    [
        lambda poll: poll.ref.send_nowait("wrong"),
        lambda poll: poll.ref.notify("wrong"),
        lambda poll: poll.ref.stop(),
        lambda poll: poll.ref.resume(),
        lambda poll: poll.hub.broadcast("polls", "wrong"),
    ],
    ids=["send_nowait", "notify", "stop", "resume", "broadcast"],
)
async def test_a_call_from_another_thread_is_refused_and_spoils_nothing(call):
    poll = Poll(idle_timeout=math.inf)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.join("polls")
        with pytest.raises(RuntimeError, match=r"another thread .*send_from_thread\(message\)"):
            await trio.to_thread.run_sync(call, poll)
        assert poll.hub.broadcast("polls", "right") == 1
        await settle()
        assert poll.handled == ["right"]


async def test_a_thread_of_trios_can_broadcast_by_way_of_trio():
    poll = Poll(idle_timeout=math.inf)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.join("polls")
        reached = partial(trio.from_thread.run_sync, poll.hub.broadcast, "polls", "message")
        assert await trio.to_thread.run_sync(reached) == 1
        await settle()
        assert poll.handled == ["message"]


async def test_send_from_thread_works_in_trios_own_thread_too(autojump_clock):
    poll = Poll(idle_timeout=math.inf)  # the clock jumps while a thread works
    async with serve() as client:
        client.run(poll)
        await settle()
        assert poll.ref.send_from_thread("message") is None
        await settle()
        assert poll.handled == ["message"]


async def test_send_from_thread_keeps_the_order_of_one_thread(autojump_clock):
    poll = Poll(idle_timeout=math.inf)  # the clock jumps while a thread works

    def send_many():
        for number in range(100):
            poll.ref.send_from_thread(number)

    async with serve() as client:
        client.run(poll)
        await settle()
        thread = threading.Thread(target=send_many)
        thread.start()
        thread.join()
        await settle()
        assert poll.handled == list(range(100))


async def test_send_from_thread_to_a_hub_that_has_stopped_does_nothing(autojump_clock):
    poll = Poll(idle_timeout=math.inf)  # the clock jumps while a thread works
    async with serve() as client:
        client.run(poll)
        await settle()
    await trio.to_thread.run_sync(poll.ref.send_from_thread, "late")
    assert poll.handled == []


# -- calling ---------------------------------------------------------------------------------------


async def test_call_returns_what_info_replies(autojump_clock):
    poll = Poll(lambda call: call.reply(call.message * 2) and None)
    async with serve() as client:
        client.run(poll)
        await settle()
        assert await poll.ref.call(21, timeout=1) == 42
        assert isinstance(poll.handled[0], Call)


async def test_a_reply_may_come_long_after_info_has_returned(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()

        async def reply_later():
            await trio.sleep(3)
            poll.handled[0].reply("late")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reply_later)
            assert await poll.ref.call("question", timeout=10) == "late"
        assert trio.current_time() == 3.0


async def test_call_without_a_reply_is_too_slow_after_its_timeout(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        with pytest.raises(trio.TooSlowError, match="2 s"):
            await poll.ref.call("question", timeout=2)
        assert trio.current_time() == 2.0


async def test_the_timeout_of_a_call_covers_waiting_for_room(autojump_clock):
    poll = Poll(busy(60), mailbox_size=1, overflow=Overflow.BLOCK)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("busy")
        await settle()
        poll.ref.send_nowait("full")
        with pytest.raises(trio.TooSlowError):
            await poll.ref.call("question", timeout=2)
        assert trio.current_time() == 2.0


@pytest.mark.parametrize("timeout", [-1, "1", None, True])
async def test_a_call_needs_a_timeout_in_seconds(autojump_clock, timeout):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        with pytest.raises((TypeError, ValueError), match="timeout"):
            await poll.ref.call("question", timeout)


async def test_call_raises_handler_ended_when_the_handler_ends_without_a_reply(autojump_clock):
    poll = Poll(lambda call: Stop())
    async with serve() as client:
        client.run(poll)
        await settle()
        with pytest.raises(HandlerEnded) as info:
            await poll.ref.call("question", timeout=10)
        assert info.value.reason == Stopped()


async def test_a_call_that_waits_in_the_mailbox_at_the_end_raises_handler_ended(autojump_clock):
    graveyard = Graveyard()
    poll = Poll(busy())
    async with serve(dead_letter=graveyard) as client:
        exchange = client.run(poll)
        await settle()
        poll.ref.send_nowait("busy")
        await settle()

        async def disconnect():
            await trio.sleep(0.5)
            exchange.disconnect()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(disconnect)
            with pytest.raises(HandlerEnded):
                await poll.ref.call("question", timeout=10)
        assert [message.message for message, _ in graveyard.letters] == ["question"]


async def test_a_call_to_a_handler_that_has_ended_raises_at_once(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.stop()
        await poll.ref.wait_ended()
        with pytest.raises(HandlerEnded) as info:
            await poll.ref.call("question", timeout=10)
        assert info.value.reason == ShutDown()
        assert trio.current_time() == 0.0


async def test_a_crash_reaches_the_caller_as_the_reason(autojump_clock):
    poll = Poll(lambda call: 1 / 0)
    async with serve() as client:
        client.run(poll)
        await settle()
        with pytest.raises(HandlerEnded) as info:
            await poll.ref.call("question", timeout=10)
        assert isinstance(info.value.reason, Crashed)


async def test_a_call_that_a_full_mailbox_refuses_would_block(autojump_clock):
    poll = Poll(busy(), mailbox_size=1, overflow=Overflow.DROP_NEWEST)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("busy")
        await settle()
        poll.ref.send_nowait("full")
        with pytest.raises(trio.WouldBlock):
            await poll.ref.call("question", timeout=10)


async def test_a_call_that_is_displaced_would_block(autojump_clock):
    poll = Poll(busy(), mailbox_size=1, overflow=Overflow.DROP_OLDEST)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("busy")
        await settle()

        async def displace():
            await settle()
            poll.ref.send_nowait("newer")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(displace)
            with pytest.raises(trio.WouldBlock):
                await poll.ref.call("question", timeout=0.5)


async def test_only_the_first_reply_counts(autojump_clock):
    replies = []
    poll = Poll(lambda call: replies.extend([call.reply("first"), call.reply("second")]))
    async with serve() as client:
        client.run(poll)
        await settle()
        assert await poll.ref.call("question", timeout=1) == "first"
        assert replies == [True, False]


async def test_a_reply_after_the_end_of_the_handler_says_that_nobody_hears_it(autojump_clock):
    poll = Poll(lambda call: Stop())
    async with serve() as client:
        client.run(poll)
        await settle()
        with pytest.raises(HandlerEnded):
            await poll.ref.call("question", timeout=1)
        assert poll.handled[0].reply("late") is False


async def test_a_handler_may_reply_in_terminate(autojump_clock):
    class Polite(Poll):
        def info(self, call):
            self.waiting = call
            return Stop()

        def terminate(self, reason):
            self.waiting.reply("goodbye")

    polite = Polite()
    async with serve() as client:
        client.run(polite)
        await settle()
        assert await polite.ref.call("question", timeout=1) == "goodbye"


async def test_one_handler_may_call_another(autojump_clock):
    answering = Poll(lambda call: call.reply("answer") and None)

    async def ask(message):
        answers.append(await answering.ref.call(message, timeout=1))

    asking, answers = Poll(ask), []
    async with serve() as client:
        client.run(answering)
        client.run(asking)
        await settle()
        asking.ref.send_nowait("question")
        await settle()
        assert answers == ["answer"]


async def test_a_cancelled_call_leaves_nothing_behind(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        with trio.move_on_after(1):
            await poll.ref.call("question", timeout=10)
        assert poll.handled[0].message == "question"
        poll.ref.stop()
        assert await poll.ref.wait_ended() == ShutDown()


# -- waiting for oneself ---------------------------------------------------------------------------


async def crash_of(function):
    """The error of a handler that awaits this in ``info``."""

    async def answer(message):
        await function(poll)

    poll = Poll(answer, mailbox_size=1, overflow=Overflow.BLOCK)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("message")
        reason = await poll.ref.wait_ended()
    assert isinstance(reason, Crashed)
    return reason.error


async def fill_and_send(poll):
    poll.ref.send_nowait("full")
    await poll.ref.send("never")


@pytest.mark.parametrize(
    "wait",
    [
        fill_and_send,
        lambda poll: poll.ref.call("question", timeout=1),
        lambda poll: poll.ref.wait_ended(),
    ],
    ids=["send", "call", "wait_ended"],
)
async def test_waiting_for_oneself_is_a_runtime_error_at_once(autojump_clock, wait):
    error = await crash_of(wait)
    assert isinstance(error, RuntimeError)
    assert "handler cannot" in str(error)
    assert trio.current_time() == 0.0


async def test_send_to_oneself_with_room_is_fine(autojump_clock):
    async def answer(message):
        if message == "x":
            assert await poll.ref.send("again")

    poll: Poll = Poll(answer, overflow=Overflow.BLOCK)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("x")
        await settle()
        assert poll.handled == ["x", "again"]


async def test_a_child_task_may_wait_for_its_handler(autojump_clock):
    answers = []

    async def child():
        answers.append(await poll.ref.call("question", timeout=1))

    poll = Poll(
        lambda call: call.reply("answer") and None,
        init=lambda request: poll.nursery.start_soon(child),
    )
    async with serve() as client:
        client.run(poll)
        await settle()
        assert answers == ["answer"]


async def test_monitoring_oneself_is_a_runtime_error(autojump_clock):
    async def monitor(poll):
        poll.monitor(poll.ref)

    assert isinstance(await crash_of(monitor), RuntimeError)


# -- stop and wait_ended ---------------------------------------------------------------------------


async def test_stop_ends_a_waiting_handler_with_shut_down(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.stop()
        assert await poll.ref.wait_ended() == ShutDown()


async def test_stop_cancels_a_running_callback(autojump_clock):
    poll = Poll(busy(60))
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("message")
        await trio.sleep(1)
        poll.ref.stop()
        await poll.ref.wait_ended()
        assert trio.current_time() == 1.0


async def test_stop_cancels_a_running_init(autojump_clock):
    poll = Poll(init=busy(60))
    async with serve() as client:
        client.run(poll)
        await trio.sleep(1)
        poll.ref.stop()
        assert await poll.ref.wait_ended() == ShutDown()
        assert trio.current_time() == 1.0


async def test_the_first_reason_wins(autojump_clock):
    poll = Poll()
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        exchange.disconnect()
        poll.ref.stop()
        exchange.cancel()
        poll.ref.send_nowait(Stop())
        reason = await poll.ref.wait_ended()
        assert poll.reasons == [reason] == [ShutDown()]


async def test_stopping_twice_is_stopping_once(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.stop()
        poll.ref.stop()
        await poll.ref.wait_ended()
        poll.ref.stop()
        await settle()
        assert poll.reasons == [ShutDown()]


async def test_wait_ended_waits_for_the_end_of_terminate(autojump_clock):
    poll = Poll(terminate=busy(3))
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait(Stop())
        assert await poll.ref.wait_ended() == Stopped()
        assert trio.current_time() == 3.0


async def test_many_may_wait_for_the_end_and_later_ones_hear_it_at_once(autojump_clock):
    poll, reasons = Poll(idle_timeout=5.0), []

    async def wait():
        reasons.append(await poll.ref.wait_ended())

    async with serve() as client:
        client.run(poll)
        await settle()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
        await wait()
        assert reasons == [TimedOut()] * 4


# -- refs as values --------------------------------------------------------------------------------


async def test_ids_are_strings_and_unique_across_hubs(autojump_clock):
    polls = [Poll() for _ in range(6)]
    async with serve() as one, serve() as two:
        for poll, client in zip(polls, [one, two] * 3, strict=True):
            client.run(poll)
        await settle()
        ids = {poll.ref.id for poll in polls}
        assert len(ids) == 6
        assert all(isinstance(each, str) for each in ids)


async def test_a_ref_is_hashable_and_stays_valid_after_the_end(autojump_clock):
    poll = Poll()
    async with serve() as client:
        client.run(poll)
        await settle()
        refs = {poll.ref: "value"}
        poll.ref.stop()
        await poll.ref.wait_ended()
        assert refs[poll.ref] == "value"
        assert poll.ref.id in repr(poll.ref)
        assert "Poll" in repr(poll.ref)


async def test_a_handler_that_has_ended_is_collected(autojump_clock):
    poll = Poll()
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        seen = weakref.ref(poll)
        poll.ref.stop()
        await exchange.wait_returned()
        del poll
        client.forget(exchange)
        del exchange
        await settle()
        gc.collect()
        assert seen() is None


# -- statistics ------------------------------------------------------------------------------------


async def test_statistics_of_a_waiting_handler(autojump_clock):
    poll = Poll(init=lambda request: SendAfter(9, "ring"))
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("one")
        await settle()
        assert poll.ref.statistics() == HandlerStatistics(
            phase="waiting",
            messages_waiting=0,
            messages_handled=1,
            timers=1,
            hibernating=False,
        )


async def test_statistics_of_a_busy_handler(autojump_clock):
    poll = Poll(busy())
    async with serve() as client:
        client.run(poll)
        await settle()
        for number in range(3):
            poll.ref.send_nowait(number)
        await trio.sleep(0.5)
        statistics = poll.ref.statistics()
        assert statistics.phase == "callback"
        assert (statistics.messages_waiting, statistics.messages_handled) == (2, 1)


async def test_statistics_count_messages_that_were_put_back_or_wait_in_front(autojump_clock):
    async def answer(message):
        if message == "slow":
            await trio.sleep(1)
        return {"later": Postpone(), "first": [Then("slow"), Then("slow")]}.get(message)

    poll = Poll(answer)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("first")
        await trio.sleep(0.5)
        assert poll.ref.statistics().messages_waiting == 1
        await trio.sleep(2)
        poll.ref.send_nowait("later")
        await settle()
        assert poll.ref.statistics().messages_waiting == 1


async def test_statistics_of_a_hibernating_handler(autojump_clock):
    poll = Poll(lambda message: Hibernate() if message == "sleep" else None)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("sleep")
        await settle()
        assert poll.ref.statistics().hibernating
        poll.ref.send_nowait("wake")
        await settle()
        assert not poll.ref.statistics().hibernating


async def test_the_phases_of_a_life_are_those_that_are_documented(autojump_clock):
    phases = []

    def note(*args):
        phases.append(stream.ref.statistics().phase)

    async def note_later(*args):
        note()

    stream = Stream(
        lambda message: message() if callable(message) else message,
        init=note_later,
        terminate=note_later,
    )
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        note()
        for message in (note_later, note):
            stream.ref.send_nowait(message)
            await settle()
        for message in (ServerSentEvent("x"), Stop()):
            exchange.stall()
            stream.ref.send_nowait(message)
            await settle()
            note()
            exchange.resume()
        await stream.ref.wait_ended()
        note()
    assert phases[1] == "waiting"
    assert phases[2] == "callback"
    assert phases[4] == "writing"
    assert phases[-2:] == ["terminating", "ended"]
    documented = {"init", "waiting", "callback", "writing", "terminating", "ended"}
    assert set(phases) <= documented


async def test_statistics_of_the_hub(autojump_clock):
    polls = [Poll() for _ in range(3)]
    async with serve() as client:
        for poll in polls:
            client.run(poll)
            await settle()
            poll.join("group")
        polls[0].register("name")
        polls[1].ref.stop()
        await polls[1].ref.wait_ended()
        statistics = client.hub.statistics()
        assert (statistics.handlers, statistics.started) == (2, 3)
        assert (statistics.names, statistics.groups) == (1, 1)
        assert not statistics.draining
        client.hub.shut_down()
        assert client.hub.statistics().draining


# -- the default info ------------------------------------------------------------------------------


async def test_a_message_that_no_info_takes_is_a_crash_that_says_so(autojump_clock):
    handler = LoopHandler()
    async with serve() as client:
        client.run(handler)
        await settle()
        handler.ref.send_nowait("message")
        reason = await handler.ref.wait_ended()
        assert isinstance(reason, Crashed)
        assert isinstance(reason.error, TypeError)
        assert "write one" in str(reason.error)


@pytest.mark.parametrize("message", [Stop(), [Stop()], (Stop(),)])
async def test_the_default_info_carries_out_commands(autojump_clock, message):
    handler = LoopHandler()
    async with serve() as client:
        client.run(handler)
        await settle()
        handler.ref.send_nowait(message)
        assert await handler.ref.wait_ended() == Stopped()


async def test_a_partial_or_any_other_callable_makes_handlers_too(autojump_clock):
    async with serve() as client:
        exchange = client.open(app=client.hub.endpoint(partial(Poll, idle_timeout=1.0)))
        await exchange.wait_returned()
        assert (exchange.status, trio.current_time()) == (204, 1.0)
