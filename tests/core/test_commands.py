"""The flow commands: `Continue`, `Stop`, `Then`, `Postpone`, `Hibernate` and timers."""

from __future__ import annotations

import contextvars
import math

import pytest
import trio
from support.fake import Poll, Stream, serve, settle

from trioloop import (
    CancelTimer,
    Chunk,
    Continue,
    Hibernate,
    Postpone,
    SendAfter,
    ServerSentEvent,
    ShutDown,
    StartResponse,
    Stop,
    Stopped,
    Then,
    TimedOut,
)


async def handle(poll, *messages):
    """Serve the handler, send it these, and wait until all is quiet."""
    async with serve() as client:
        client.run(poll)
        await settle()
        for message in messages:
            poll.ref.send_nowait(message)
        await settle()


# -- what is refused when it is made ---------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: Continue(idle_timeout="1"),
        lambda: Continue(idle_timeout=True),
        lambda: Continue(receive="yes"),
        lambda: Hibernate(idle_timeout="1"),
        lambda: Stop("reason"),
        lambda: Stop(ShutDown()),
        lambda: SendAfter("1", "message"),
        lambda: SendAfter(1, "message", key=[]),
        lambda: CancelTimer([]),
    ],
)
def test_a_command_with_a_value_of_the_wrong_type_cannot_be_made(make):
    with pytest.raises(TypeError):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Continue(idle_timeout=-1),
        lambda: Continue(receive_timeout=-1),
        lambda: Continue(idle_timeout=math.nan),
        lambda: Hibernate(idle_timeout=-1),
        lambda: SendAfter(-1, "message"),
        lambda: SendAfter(math.inf, "message"),
        lambda: SendAfter(math.nan, "message"),
        lambda: CancelTimer(None),
        lambda: TimedOut("nobody"),
    ],
)
def test_a_command_with_an_impossible_value_cannot_be_made(make):
    with pytest.raises(ValueError, match=r"."):
        make()


@pytest.mark.parametrize(
    "command", [Continue(), Hibernate(), Stop(), Then(1), SendAfter(1, 2), CancelTimer(1)]
)
def test_a_command_is_a_frozen_value(command):
    assert command == type(command)(
        **{name: getattr(command, name) for name in type(command).__dataclass_fields__}
    )
    with pytest.raises((AttributeError, TypeError)):
        command.anything = 1


# -- Continue and Stop -----------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [None, Continue(), [], (), [Continue(), Continue()]])
async def test_nothing_and_continue_go_on_waiting(autojump_clock, outcome):
    poll = Poll(lambda message: outcome)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait(1)
        poll.ref.send_nowait(2)
        await settle()
        assert (poll.handled, poll.reasons) == ([1, 2], [])


@pytest.mark.parametrize("reason", [Stopped(), TimedOut(), TimedOut("client")])
async def test_stop_ends_the_handler_with_its_reason(autojump_clock, reason):
    poll = Poll()
    await handle(poll, Stop(reason), "never")
    assert poll.reasons == [reason]
    assert poll.handled == [Stop(reason)]


async def test_stop_is_stopped_by_default(autojump_clock):
    poll = Poll()
    await handle(poll, Stop())
    assert poll.reasons == [Stopped()]


# -- Then ------------------------------------------------------------------------------------------


async def test_several_then_messages_keep_their_order(autojump_clock):
    poll = Poll(lambda message: [Then("a"), Then("b")] if message == "start" else None)
    await handle(poll, "start", "mailbox")
    assert poll.handled == ["start", "a", "b", "mailbox"]


async def test_a_then_message_may_return_then(autojump_clock):
    poll = Poll(lambda message: Then(message - 1) if message else None)
    await handle(poll, 3)
    assert poll.handled == [3, 2, 1, 0]


async def test_then_from_init_comes_before_messages_that_were_sent_during_init(autojump_clock):
    def init(request):
        poll.ref.send_nowait("mailbox")
        return Then("then")

    poll = Poll(init=init)
    await handle(poll)
    assert poll.handled == ["then", "mailbox"]


async def test_then_from_idle_is_handled_and_moves_the_idle_time(autojump_clock):
    poll = Poll(idle=lambda: Then("then"), idle_timeout=2.0)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(5)
        assert poll.times == [2.0, 4.0]


async def test_then_goes_to_info_also_from_notify(autojump_clock):
    poll = Poll(notify=lambda message: Then("then"))
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.notify("message")
        await settle()
        assert poll.handled == ["then"]


async def test_then_is_written_before_an_async_info_starts(autojump_clock):
    async def slow():
        seen.append(exchange.body)

    seen = []
    poll = Poll(
        lambda message: (
            [StartResponse(200), Chunk("saving"), Then("save")] if message == "start" else slow()
        )
    )
    async with serve() as client:
        exchange = client.run(poll)
        await settle()
        poll.ref.send_nowait("start")
        await settle()
        assert seen == [b"saving"]


async def test_then_counts_in_no_mailbox(autojump_clock):
    async def answer(message):
        await trio.sleep(1)
        return Then("then") if message == "start" else None

    poll = Poll(answer, mailbox_size=1)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("start")
        await settle()
        poll.ref.send_nowait("full")
        await trio.sleep(5)
        assert (poll.handled, poll.reasons) == (["start", "then", "full"], [])


# -- Postpone --------------------------------------------------------------------------------------


class Gate(Poll):
    """Puts back what it cannot take yet: numbers, until the message ``"open"``."""

    opened = False

    def info(self, message):
        self.handled.append(message)
        if message == "open":
            self.opened = True
        if isinstance(message, int) and not self.opened:
            return Postpone()
        return None


async def test_a_postponed_message_is_handled_again_right_after_the_next_other_one(autojump_clock):
    gate = Gate()
    await handle(gate, 1, "open", "last")
    assert gate.handled == [1, "open", 1, "last"]


async def test_a_postponed_message_waits_for_another_one(autojump_clock):
    gate = Gate()
    await handle(gate, 1)
    assert gate.handled == [1]


async def test_a_message_may_be_postponed_again_and_again(autojump_clock):
    gate = Gate()
    await handle(gate, 1, "x", "y", "open")
    assert gate.handled == [1, "x", 1, "y", 1, "open", 1]


async def test_several_postponed_messages_keep_their_order(autojump_clock):
    gate = Gate()
    await handle(gate, 1, 2, 3, "open", "last")
    assert gate.handled[-4:] == [1, 2, 3, "last"]


async def test_two_postponed_messages_do_not_chase_each_other(autojump_clock):
    gate = Gate()
    async with serve() as client:
        client.run(gate)
        await settle()
        gate.ref.send_nowait(1)
        gate.ref.send_nowait(2)
        await settle()
        assert len(gate.handled) < 10


async def test_a_notification_can_be_postponed_and_is_a_notification_again(autojump_clock):
    notified = []

    def notify(message):
        notified.append(message)
        return Postpone() if len(notified) == 1 else None

    poll = Poll(notify=notify)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.notify("notification")
        poll.ref.send_nowait("message")
        await settle()
        assert (notified, poll.handled) == (["notification"] * 2, ["message"])


async def test_a_timers_message_brings_a_postponed_one_back(autojump_clock):
    gate = Gate(init=lambda request: SendAfter(1, "open"))
    async with serve() as client:
        client.run(gate)
        await settle()
        gate.ref.send_nowait(1)
        await trio.sleep(2)
        assert gate.handled == [1, "open", 1]


async def test_idle_does_not_bring_a_postponed_message_back(autojump_clock):
    gate = Gate(idle=lambda: None, idle_timeout=1.0)
    async with serve() as client:
        client.run(gate)
        await settle()
        gate.ref.send_nowait(1)
        await trio.sleep(5.5)
        assert gate.handled == [1]


async def test_a_postponed_message_does_not_stop_the_idle_time(autojump_clock):
    gate = Gate(idle_timeout=1.0)
    async with serve() as client:
        client.run(gate)
        await settle()
        gate.ref.send_nowait(1)
        await gate.ref.wait_ended()
        assert gate.reasons == [TimedOut()]
        assert gate.ended_at == 1.0


async def test_postpone_with_then_handles_the_then_message_and_then_the_postponed_one(
    autojump_clock,
):
    poll = Poll(
        lambda message: (
            [Then("login"), Postpone()]
            if message == "query" and "login" not in poll.handled
            else None
        )
    )
    await handle(poll, "query", "next")
    assert poll.handled == ["query", "login", "query", "next"]


async def test_postpone_writes_what_comes_with_it(autojump_clock):
    stream = Stream(
        lambda message: [ServerSentEvent("wait"), Postpone()] if message == "x" else None
    )
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        stream.ref.send_nowait("x")
        await settle()
        assert exchange.body == b"data: wait\n\n"


async def test_postpone_and_hibernate_go_together(autojump_clock):
    class SleepingGate(Gate):
        def info(self, message):
            return [super().info(message) or Continue(), Hibernate()]

    gate = SleepingGate()
    async with serve() as client:
        client.run(gate)
        await settle()
        gate.ref.send_nowait(1)
        await settle()
        assert gate.ref.statistics().hibernating
        gate.ref.send_nowait("open")
        await settle()
        assert gate.handled == [1, "open", 1]


# -- Hibernate -------------------------------------------------------------------------------------


def sleeper(**attributes):
    return Poll(lambda message: Hibernate() if message == "sleep" else None, **attributes)


async def test_a_hibernating_handler_wakes_up_with_the_next_message(autojump_clock):
    poll = sleeper()
    async with serve() as client:
        client.run(poll)
        for message in ("sleep", "one", "sleep", "two"):
            await settle()
            poll.ref.send_nowait(message)
        await settle()
        assert poll.handled == ["sleep", "one", "sleep", "two"]


async def test_a_handler_may_hibernate_from_init(autojump_clock):
    poll = Poll(init=lambda request: Hibernate())
    async with serve() as client:
        client.run(poll)
        await settle()
        assert poll.ref.statistics().hibernating
        poll.ref.send_nowait("message")
        await settle()
        assert poll.handled == ["message"]


async def test_a_hibernating_handler_has_no_task(autojump_clock):
    poll = sleeper()
    async with serve() as client:
        client.run(poll)
        await settle()
        before = trio.lowlevel.current_statistics().tasks_living
        poll.ref.send_nowait("sleep")
        await settle()
        assert trio.lowlevel.current_statistics().tasks_living == before - 1
        poll.ref.send_nowait("wake up")
        await settle()
        assert trio.lowlevel.current_statistics().tasks_living == before


async def test_context_variables_outlive_hibernation(autojump_clock):
    variable = contextvars.ContextVar("variable", default="the sender's")
    seen = []

    def answer(message):
        seen.append(variable.get())
        variable.set(message)
        return Hibernate()

    poll = Poll(answer)
    async with serve() as client:
        client.run(poll)
        for message in ("first", "second"):
            await settle()
            poll.ref.send_nowait(message)
        await settle()
        assert seen == ["the sender's", "first"]
        assert variable.get() == "the sender's"


async def test_ready_messages_are_handled_before_hibernation(autojump_clock):
    poll = sleeper()
    await handle(poll, "sleep", "ready")
    assert poll.handled == ["sleep", "ready"]


async def test_the_idle_time_goes_on_while_hibernating(autojump_clock):
    poll = sleeper(idle_timeout=3.0)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(1)
        poll.ref.send_nowait("sleep")
        await poll.ref.wait_ended()
        assert (poll.ended_at, poll.reasons) == (4.0, [TimedOut()])


async def test_timers_wake_a_hibernating_handler(autojump_clock):
    poll = Poll(init=lambda request: [SendAfter(2, "ring"), Hibernate()])
    async with serve() as client:
        client.run(poll)
        await trio.sleep(3)
        assert (poll.handled, poll.times) == (["ring"], [2.0])


async def test_keepalives_go_on_while_hibernating(autojump_clock):
    stream = Stream(init=lambda request: Hibernate(), keepalive=2.0)
    async with serve() as client:
        exchange = client.run(stream)
        await trio.sleep(7)
        assert exchange.writes == [(2.0, b":\n\n"), (4.0, b":\n\n"), (6.0, b":\n\n")]
        assert stream.ref.statistics().hibernating


async def test_what_was_returned_with_it_is_written(autojump_clock):
    stream = Stream(lambda message: [ServerSentEvent("x"), Hibernate()])
    async with serve() as client:
        exchange = client.run(stream)
        await settle()
        stream.ref.send_nowait("message")
        await settle()
        assert exchange.body == b"data: x\n\n"


async def test_child_tasks_live_on_while_hibernating(autojump_clock):
    ticks = []

    async def child():
        while True:
            await trio.sleep(1)
            ticks.append(trio.current_time())

    def init(request):
        poll.nursery.start_soon(child)
        return Hibernate()

    poll = Poll(init=init)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(3.5)
        assert ticks == [1.0, 2.0, 3.0]
        assert poll.ref.statistics().hibernating
        poll.ref.send_nowait("message")
        await trio.sleep(1)
        assert (poll.handled, len(ticks)) == (["message"], 4)


async def test_a_child_crash_ends_a_hibernating_handler(autojump_clock):
    async def child():
        await trio.sleep(1)
        raise ValueError("boom")

    def init(request):
        poll.nursery.start_soon(child)
        return Hibernate()

    poll = Poll(init=init)
    async with serve() as client:
        client.run(poll)
        await settle()
        await poll.ref.wait_ended()
        assert poll.reasons[0].callback == "nursery"


async def test_a_child_task_can_be_started_after_hibernation(autojump_clock):
    started = []

    async def child():
        started.append("child")

    poll = Poll(
        lambda message: Hibernate() if message == "sleep" else poll.nursery.start_soon(child)
    )
    async with serve() as client:
        client.run(poll)
        for message in ("sleep", "start"):
            await settle()
            poll.ref.send_nowait(message)
        await settle()
        assert started == ["child"]


@pytest.mark.parametrize("end", ["disconnect", "cancel", "stop"])
async def test_a_hibernating_handler_can_be_ended(autojump_clock, end):
    poll = Poll(init=lambda request: Hibernate())
    async with serve() as client:
        exchange = client.run(poll)
        await trio.sleep(1)
        (poll.ref.stop if end == "stop" else getattr(exchange, end))()
        await poll.ref.wait_ended()
        assert (len(poll.reasons), poll.ended_at) == (1, 1.0)


@pytest.mark.parametrize("attempt", range(10))
async def test_idle_is_not_called_when_a_hibernating_handler_is_ended_at_that_very_instant(
    autojump_clock, attempt
):
    idle = []
    poll = Poll(init=lambda request: Hibernate(), idle=lambda: idle.append("idle"))
    poll.idle_timeout = 2.0
    async with serve() as client:
        client.run(poll)
        await trio.sleep(2)
        called_before = list(idle)
        poll.ref.stop()
        await poll.ref.wait_ended()
        assert idle == called_before
        assert poll.reasons == [ShutDown()]


async def test_hibernate_may_change_the_idle_timeout(autojump_clock):
    poll = Poll(init=lambda request: Hibernate(idle_timeout=2.0))
    async with serve() as client:
        client.run(poll)
        await settle()
        await poll.ref.wait_ended()
        assert poll.ended_at == 2.0


async def test_the_idle_callback_runs_in_hibernation_and_may_hibernate_again(autojump_clock):
    times = []

    def idle():
        times.append(trio.current_time())
        return Hibernate()

    poll = Poll(init=lambda request: Hibernate(), idle=idle, idle_timeout=2.0)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(7)
        assert times == [2.0, 4.0, 6.0]
        assert poll.ref.statistics().hibernating


# -- timers ----------------------------------------------------------------------------------------


async def test_send_after_sends_the_message_later(autojump_clock):
    poll = Poll(lambda message: SendAfter(2.5, "ring") if message == "start" else None)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(1)
        poll.ref.send_nowait("start")
        await trio.sleep(5)
        assert (poll.handled, poll.times) == (["start", "ring"], [1.0, 3.5])


async def test_a_delay_of_zero_comes_after_what_was_ready(autojump_clock):
    poll = Poll(lambda message: SendAfter(0, "soon") if message == "start" else None)
    await handle(poll, "start", "ready")
    assert poll.handled == ["start", "ready", "soon"]


async def test_the_delay_runs_from_the_return_of_an_async_callback(autojump_clock):
    async def answer(message):
        if message == "start":
            await trio.sleep(3)
            return SendAfter(1, "ring")
        return None

    poll = Poll(answer)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("start")
        await trio.sleep(10)
        assert poll.times == [0.0, 4.0]


async def test_the_same_key_replaces_the_timer(autojump_clock):
    poll = Poll(
        init=lambda request: [
            SendAfter(1, "old", key="k"),
            SendAfter(2, "new", key="k"),
            SendAfter(3, "other", key="l"),
        ]
    )
    async with serve() as client:
        client.run(poll)
        await trio.sleep(5)
        assert (poll.handled, poll.times) == (["new", "other"], [2.0, 3.0])


async def test_timers_without_a_key_replace_nothing(autojump_clock):
    poll = Poll(init=lambda request: [SendAfter(1, "a"), SendAfter(1, "b")])
    async with serve() as client:
        client.run(poll)
        await trio.sleep(2)
        assert poll.handled == ["a", "b"]


async def test_a_key_is_free_when_its_timer_has_fired(autojump_clock):
    poll = Poll(lambda message: SendAfter(1, message + 1, key="k") if message < 3 else None)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait(0)
        await trio.sleep(10)
        assert poll.times == [0.0, 1.0, 2.0, 3.0]


async def test_cancel_timer_cancels_it(autojump_clock):
    poll = Poll(init=lambda request: [SendAfter(1, "ring", key="k"), CancelTimer("k")])
    async with serve() as client:
        client.run(poll)
        await trio.sleep(5)
        assert poll.handled == []
        assert poll.ref.statistics().timers == 0


async def test_cancelling_a_timer_that_is_not_there_does_nothing(autojump_clock):
    poll = Poll(init=lambda request: [CancelTimer("k"), SendAfter(1, "ring"), CancelTimer("k")])
    async with serve() as client:
        client.run(poll)
        await trio.sleep(2)
        assert (poll.handled, poll.reasons) == (["ring"], [])


async def test_a_cancelled_message_that_is_in_the_mailbox_stays_there(autojump_clock):
    async def answer(message):
        if message == "slow":
            await trio.sleep(2)
            return CancelTimer("k")
        return None

    poll = Poll(answer, init=lambda request: SendAfter(1, "ring", key="k"))
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("slow")
        await trio.sleep(1.5)
        poll.ref.send_nowait("after the timer")
        await trio.sleep(2)
        assert poll.handled == ["slow", "ring", "after the timer"]


async def test_a_key_that_is_replaced_a_thousand_times_is_one_timer(autojump_clock):
    poll = Poll(lambda message: SendAfter(5, "ring", key="k") if message != "ring" else None)
    async with serve() as client:
        client.run(poll)
        await settle()
        for number in range(900):
            poll.ref.send_nowait(number)
        await settle()
        assert poll.ref.statistics().timers == 1
        await trio.sleep(10)
        assert poll.handled.count("ring") == 1


async def test_a_timer_set_in_a_long_past_is_not_late_under_load(autojump_clock):
    async def answer(message):
        if message != "ring":
            await trio.sleep(0.25)

    poll = Poll(answer, init=lambda request: SendAfter(1, "ring"))
    async with serve() as client:
        client.run(poll)
        await settle()
        for number in range(10):
            poll.ref.send_nowait(number)
        await trio.sleep(10)
        assert poll.times[poll.handled.index("ring")] == 2.5  # behind those that came before it
