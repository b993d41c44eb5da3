"""Law 5: when `terminate` starts, all that the handler held is gone; `Down` goes out after it."""

from __future__ import annotations

import pytest
import trio
from support.fake import Graveyard, Parent, Poll, serve, settle

from trioloop import Crashed, Down, SendAfter, ShutDown, Stop, Stopped

ENDINGS = {
    "stop": lambda exchange, poll: poll.ref.send_nowait(Stop()),
    "crash": lambda exchange, poll: poll.ref.send_nowait(["no command"]),
    "disconnect": lambda exchange, poll: exchange.disconnect(),
    "cancel": lambda exchange, poll: exchange.cancel(),
    "ref.stop": lambda exchange, poll: poll.ref.stop(),
}
every_ending = pytest.mark.parametrize("end", ENDINGS.values(), ids=ENDINGS)


class Owner(Poll):
    """Holds one of everything, and looks in `terminate` what of it is left."""

    def init(self, request):
        self.register("name")
        self.join("group")
        self.watch("watched")
        self.child_ended = False
        self.nursery.start_soon(self.child)
        return SendAfter(100, "ring")

    async def child(self):
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            self.child_ended = True

    def info(self, message):
        super().info(message)
        return message  # a list with text in it is a bad return

    def terminate(self, reason):
        super().terminate(reason)
        self.left = {
            "name": self.hub.whereis("name"),
            "members": self.hub.members("group"),
            "accepted": self.ref.send_nowait("late"),
            "child_ended": self.child_ended,
        }


@every_ending
async def test_names_groups_mailbox_and_child_tasks_are_gone_when_terminate_starts(
    autojump_clock, end
):
    owner = Owner()
    async with serve() as client:
        exchange = client.run(owner)
        await settle()
        assert client.hub.whereis("name") is owner.ref
        end(exchange, owner)
        await owner.ref.wait_ended()
        assert owner.left == {"name": None, "members": (), "accepted": False, "child_ended": True}


@every_ending
async def test_no_timer_fires_after_the_end(autojump_clock, end):
    graveyard = Graveyard()
    owner = Owner()
    async with serve(dead_letter=graveyard) as client:
        exchange = client.run(owner)
        await settle()
        end(exchange, owner)
        await owner.ref.wait_ended()
        await trio.sleep(200)
        assert "ring" not in owner.handled
        assert graveyard.letters == []


async def test_watched_groups_tell_an_ended_handler_nothing(autojump_clock):
    graveyard = Graveyard()
    owner, other = Owner(), Poll()
    async with serve(dead_letter=graveyard) as client:
        client.run(owner)
        client.run(other)
        await settle()
        owner.ref.stop()
        await owner.ref.wait_ended()
        other.join("watched")
        assert (owner.handled, graveyard.letters) == ([], [])


async def test_a_name_can_be_taken_by_another_handler_while_terminate_runs(autojump_clock):
    async def terminate(reason):
        await trio.sleep(2)

    owner, heir = Owner(terminate=terminate), Poll()
    async with serve() as client:
        client.run(owner)
        client.run(heir)
        await settle()
        owner.ref.stop()
        await trio.sleep(1.5)
        heir.register("name")
        await owner.ref.wait_ended()
        assert client.hub.whereis("name") is heir.ref


async def test_what_terminate_registers_or_joins_does_not_stay(autojump_clock):
    class Late(Poll):
        def terminate(self, reason):
            self.register("name")
            self.join("group")
            super().terminate(reason)

    late = Late()
    async with serve() as client:
        client.run(late)
        await settle()
        late.ref.stop()
        await late.ref.wait_ended()
        assert late.reasons == [ShutDown()]
        assert client.hub.whereis("name") is None
        assert client.hub.members("group") == ()


async def test_down_goes_out_when_terminate_has_ended(autojump_clock):
    async def terminate(reason):
        await trio.sleep(2)

    poll, watcher = Poll(terminate=terminate), Poll()
    async with serve() as client:
        client.run(poll)
        client.run(watcher)
        await settle()
        watcher.monitor(poll.ref)
        poll.ref.send_nowait(Stop())
        await trio.sleep(1.5)
        assert watcher.handled == []
        await trio.sleep(1)
        assert (watcher.handled, watcher.times) == ([Down(poll.ref, Stopped())], [2.0])


# -- child tasks -----------------------------------------------------------------------------------


async def boom(error):
    raise error


async def test_a_crash_in_a_child_task_ends_the_handler_with_the_bare_error(autojump_clock):
    error = ValueError("boom")
    poll = Poll(init=lambda request: poll.nursery.start_soon(boom, error))
    async with serve() as client:
        exchange = client.run(poll)
        await poll_has_ended(poll)
        assert poll.reasons == [Crashed(error, "nursery")]
        await exchange.wait_returned()
        assert exchange.status == 500


async def poll_has_ended(poll):
    await settle()
    await poll.ref.wait_ended()


async def test_a_child_crash_inside_of_nested_nurseries_is_still_the_bare_error(autojump_clock):
    error = ValueError("boom")

    async def nested():
        async with trio.open_nursery() as outer:
            outer.start_soon(inner)

    async def inner():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(boom, error)

    poll = Poll(init=lambda request: poll.nursery.start_soon(nested))
    async with serve() as client:
        client.run(poll)
        await poll_has_ended(poll)
        assert poll.reasons == [Crashed(error, "nursery")]


async def test_crashes_of_two_child_tasks_come_as_a_group(autojump_clock):
    first, second = ValueError("first"), KeyError("second")

    async def second_later():
        try:
            await trio.sleep_forever()
        finally:
            raise second

    def init(request):
        poll.nursery.start_soon(second_later)

    poll = Poll(init=init)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.nursery.start_soon(boom, first)
        await poll_has_ended(poll)
        [reason] = poll.reasons
        assert reason.callback == "nursery"
        assert set(reason.error.exceptions) == {first, second}


async def test_a_child_crash_during_an_async_callback_is_found_when_the_callback_has_ended(
    autojump_clock,
):
    finished = []

    async def answer(message):
        poll.nursery.start_soon(boom, ValueError("boom"))
        await trio.sleep(2)
        finished.append(trio.current_time())

    poll: Poll = Poll(answer)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.send_nowait("message")
        poll.ref.send_nowait("never handled")
        await poll.ref.wait_ended()
        assert finished == [2.0]
        assert poll.handled == ["message"]
        assert poll.reasons[0].callback == "nursery"


async def test_a_child_crash_ends_the_other_child_tasks(autojump_clock):
    ended = []

    async def other():
        try:
            await trio.sleep_forever()
        finally:
            ended.append("other")

    poll = Poll(init=lambda request: poll.nursery.start_soon(other))
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.nursery.start_soon(boom, ValueError("boom"))
        await poll.ref.wait_ended()
        assert ended == ["other"]


async def test_child_tasks_that_end_by_themselves_end_nothing(autojump_clock):
    poll = Poll(init=lambda request: poll.nursery.start_soon(trio.sleep, 1))
    async with serve() as client:
        client.run(poll)
        await trio.sleep(2)
        poll.ref.send_nowait("still there")
        await settle()
        assert (poll.handled, poll.reasons) == (["still there"], [])


async def test_cancelling_the_nursery_ends_the_child_tasks_and_not_the_loop(autojump_clock):
    ended = []

    async def child():
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    poll = Poll(init=lambda request: poll.nursery.start_soon(child))
    async with serve() as client:
        client.run(poll)
        await trio.sleep(1)
        poll.nursery.cancel_scope.cancel()
        await settle()
        assert ended == [1.0]
        poll.ref.send_nowait("still there")
        await settle()
        assert (poll.handled, poll.reasons) == (["still there"], [])


async def test_a_callback_that_cancels_the_nursery_runs_on_and_can_start_children_again(
    autojump_clock,
):
    started = []

    async def child():
        started.append(trio.current_time())
        await trio.sleep_forever()

    async def answer(message):
        if message == "cancel":
            poll.nursery.cancel_scope.cancel()
            await trio.sleep(1)
            return
        poll.nursery.start_soon(child)

    poll: Poll = Poll(answer)
    async with serve() as client:
        client.run(poll)
        await settle()
        for message in ("start", "cancel", "start"):
            poll.ref.send_nowait(message)
        await trio.sleep(2)
        assert started == [0.0, 1.0]
        assert poll.reasons == []


async def test_cancelling_the_nursery_does_not_move_the_idle_time(autojump_clock):
    poll = Parent(idle_timeout=4.0)
    async with serve() as client:
        client.run(poll)
        await trio.sleep(3)
        poll.children.cancel_scope.cancel()
        await poll.ref.wait_ended()
        assert poll.ended_at == 4.0


async def test_nobody_but_the_handler_can_be_the_first_to_use_its_nursery(autojump_clock):
    poll = Poll(lambda message: poll.nursery.start_soon(trio.sleep_forever))
    async with serve() as client:
        client.run(poll)
        await settle()
        with pytest.raises(RuntimeError, match="nobody else can use it before that"):
            _ = poll.nursery
        poll.ref.send_nowait("use it")
        await settle()
        assert len(poll.nursery.child_tasks) >= 1


async def test_the_nursery_is_not_there_before_init_and_in_terminate(autojump_clock):
    poll = Poll(terminate=lambda reason: poll.nursery)
    async with serve() as client:
        client.run(poll)
        await settle()
        poll.ref.stop()
        assert await poll.ref.wait_ended() == ShutDown()
        with pytest.raises(RuntimeError, match="nursery"):
            _ = poll.nursery
