"""Names, groups, watchers and monitors."""

from __future__ import annotations

import pytest
import trio
from support.fake import Poll, serve, settle

from trioloop import Down, Joined, Left, Member, NameTaken, ShutDown, Stop, Stopped


async def start(client, *polls):
    """Run these handlers until they wait for messages."""
    for poll in polls:
        client.run(poll)
        await settle()


async def end(poll):
    poll.ref.stop()
    await poll.ref.wait_ended()


# -- names -----------------------------------------------------------------------------------------


async def test_whereis_finds_who_has_registered_a_name(autojump_clock):
    one = Poll()
    async with serve() as client:
        await start(client, one)
        one.register(("user", 1))
        assert client.hub.whereis(("user", 1)) is one.ref
        assert client.hub.whereis("nobody") is None


async def test_a_name_can_be_registered_in_init(autojump_clock):
    one = Poll(init=lambda request: one.register("name"))
    async with serve() as client:
        await start(client, one)
        assert client.hub.whereis("name") is one.ref


async def test_a_taken_name_is_refused_with_the_way_out(autojump_clock):
    one, two = Poll(), Poll()
    async with serve() as client:
        await start(client, one, two)
        one.register("name")
        with pytest.raises(NameTaken, match="replace=True"):
            two.register("name")
        assert client.hub.whereis("name") is one.ref


async def test_replace_takes_a_name_over(autojump_clock):
    one, two = Poll(), Poll()
    async with serve() as client:
        await start(client, one, two)
        one.register("name")
        two.register("name", replace=True)
        assert client.hub.whereis("name") is two.ref


async def test_the_end_of_the_former_holder_does_not_take_the_name_away(autojump_clock):
    one, two = Poll(), Poll()
    async with serve() as client:
        await start(client, one, two)
        one.register("name")
        two.register("name", replace=True)
        await end(one)
        assert client.hub.whereis("name") is two.ref


async def test_registering_the_same_name_again_is_fine(autojump_clock):
    one = Poll()
    async with serve() as client:
        await start(client, one)
        one.register("name")
        one.register("name")
        assert client.hub.whereis("name") is one.ref


async def test_a_handler_may_have_several_names(autojump_clock):
    one = Poll()
    async with serve() as client:
        await start(client, one)
        one.register("a")
        one.register("b")
        await end(one)
        assert client.hub.whereis("a") is client.hub.whereis("b") is None


async def test_unregister_gives_a_name_back(autojump_clock):
    one, two = Poll(), Poll()
    async with serve() as client:
        await start(client, one, two)
        one.register("name")
        one.unregister("name")
        two.register("name")
        assert client.hub.whereis("name") is two.ref


async def test_unregister_of_somebody_elses_name_does_nothing(autojump_clock):
    one, two = Poll(), Poll()
    async with serve() as client:
        await start(client, one, two)
        one.register("name")
        two.unregister("name")
        two.unregister("nobody's")
        assert client.hub.whereis("name") is one.ref


async def test_a_name_is_free_when_its_holder_has_ended(autojump_clock):
    one, two = Poll(), Poll()
    async with serve() as client:
        await start(client, one, two)
        one.register("name")
        await end(one)
        assert client.hub.whereis("name") is None
        two.register("name")
        assert client.hub.whereis("name") is two.ref


# -- groups ----------------------------------------------------------------------------------------


async def test_members_come_in_the_order_of_joining_with_their_meta(autojump_clock):
    one, two = Poll(), Poll()
    async with serve() as client:
        await start(client, one, two)
        two.join("group", meta="second")
        one.join("group", meta="first")
        members = (Member(two.ref, "second"), Member(one.ref, "first"))
        assert client.hub.members("group") == members
        assert client.hub.members("nobody's") == ()


async def test_joining_again_replaces_the_meta_and_counts_once(autojump_clock):
    one = Poll()
    async with serve() as client:
        await start(client, one)
        one.join("group", meta=1)
        one.join("group", meta=2)
        assert client.hub.members("group") == (Member(one.ref, 2),)
        assert client.hub.broadcast("group", "news") == 1
        await settle()
        assert one.handled == ["news"]


async def test_leave_takes_a_member_out(autojump_clock):
    one, two = Poll(), Poll()
    async with serve() as client:
        await start(client, one, two)
        one.join("group")
        two.join("group")
        one.leave("group")
        one.leave("group")
        assert client.hub.members("group") == (Member(two.ref),)


async def test_a_broadcast_reaches_every_member_and_says_how_many(autojump_clock):
    one, two, other = Poll(), Poll(), Poll()
    async with serve() as client:
        await start(client, one, two, other)
        one.join("group")
        two.join("group")
        assert client.hub.broadcast("group", "news") == 2
        await settle()
        assert (one.handled, two.handled, other.handled) == (["news"], ["news"], [])


async def test_a_broadcast_can_leave_the_sender_out(autojump_clock):
    one, two = Poll(), Poll()
    async with serve() as client:
        await start(client, one, two)
        one.join("group")
        two.join("group")
        assert client.hub.broadcast("group", "news", exclude=one.ref) == 1
        await settle()
        assert (one.handled, two.handled) == ([], ["news"])


async def test_a_broadcast_to_an_empty_group_reaches_nobody(autojump_clock):
    one = Poll()
    async with serve() as client:
        await start(client, one)
        one.join("group")
        await end(one)
        assert client.hub.broadcast("group", "news") == 0


async def test_a_member_that_overflows_leaves_the_group_during_the_broadcast(autojump_clock):
    async def busy(message):
        await trio.sleep(1)

    full, fine = Poll(busy, mailbox_size=1), Poll()
    async with serve() as client:
        await start(client, full, fine)
        full.join("group")
        fine.join("group")
        full.ref.send_nowait("busy")
        await settle()
        assert [client.hub.broadcast("group", number) for number in range(3)] == [2, 1, 1]
        assert client.hub.members("group") == (Member(fine.ref),)


# -- watching --------------------------------------------------------------------------------------


async def test_watch_tells_who_joins_and_leaves(autojump_clock):
    watcher, one = Poll(), Poll()
    async with serve() as client:
        await start(client, watcher, one)
        assert watcher.watch("group") == ()
        one.join("group", meta=1)
        one.join("group", meta=2)
        one.leave("group")
        await settle()
        assert watcher.handled == [
            Joined("group", one.ref, 1),
            Joined("group", one.ref, 2),
            Left("group", one.ref, 2),
        ]


async def test_watch_gives_the_members_so_that_nothing_is_missed(autojump_clock):
    watcher, one = Poll(), Poll()
    async with serve() as client:
        await start(client, watcher, one)
        one.join("group", meta=1)
        assert watcher.watch("group") == (Member(one.ref, 1),)
        await settle()
        assert watcher.handled == []


async def test_watch_tells_of_members_that_end(autojump_clock):
    watcher, one = Poll(), Poll()
    async with serve() as client:
        await start(client, watcher, one)
        one.join("group")
        watcher.watch("group")
        await end(one)
        await settle()
        assert watcher.handled == [Left("group", one.ref)]


async def test_unwatch_ends_it(autojump_clock):
    watcher, one = Poll(), Poll()
    async with serve() as client:
        await start(client, watcher, one)
        watcher.watch("group")
        watcher.unwatch("group")
        watcher.unwatch("nobody's")
        one.join("group")
        await settle()
        assert watcher.handled == []


async def test_watching_twice_tells_once(autojump_clock):
    watcher, one = Poll(), Poll()
    async with serve() as client:
        await start(client, watcher, one)
        watcher.watch("group")
        watcher.watch("group")
        one.join("group")
        await settle()
        assert watcher.handled == [Joined("group", one.ref)]


async def test_leaving_a_group_one_is_not_in_tells_nobody(autojump_clock):
    watcher, one = Poll(), Poll()
    async with serve() as client:
        await start(client, watcher, one)
        watcher.watch("group")
        one.leave("group")
        await settle()
        assert watcher.handled == []


# -- monitors --------------------------------------------------------------------------------------


async def test_a_monitor_hears_of_the_end_with_its_reason(autojump_clock):
    watcher, one = Poll(), Poll()
    async with serve() as client:
        await start(client, watcher, one)
        watcher.monitor(one.ref)
        one.ref.send_nowait(Stop())
        await settle()
        assert watcher.handled == [Down(one.ref, Stopped())]


async def test_a_monitor_of_an_ended_handler_hears_of_it_at_once(autojump_clock):
    watcher, one = Poll(), Poll()
    async with serve() as client:
        await start(client, watcher, one)
        await end(one)
        watcher.monitor(one.ref)
        await settle()
        assert watcher.handled == [Down(one.ref, ShutDown())]


async def test_a_monitor_that_comes_during_terminate_hears_when_it_is_over(autojump_clock):
    async def terminate(reason):
        await trio.sleep(2)

    watcher, one = Poll(), Poll(terminate=terminate)
    async with serve() as client:
        await start(client, watcher, one)
        one.ref.stop()
        await trio.sleep(1)
        watcher.monitor(one.ref)
        await trio.sleep(2)
        assert (watcher.handled, watcher.times) == ([Down(one.ref, ShutDown())], [2.0])


async def test_monitoring_twice_gives_two_messages(autojump_clock):
    watcher, one = Poll(), Poll()
    async with serve() as client:
        await start(client, watcher, one)
        watcher.monitor(one.ref)
        watcher.monitor(one.ref)
        await end(one)
        await settle()
        assert watcher.handled == [Down(one.ref, ShutDown())] * 2


async def test_a_monitor_that_has_ended_first_harms_nobody(autojump_clock):
    watcher, one = Poll(), Poll()
    async with serve() as client:
        await start(client, watcher, one)
        watcher.monitor(one.ref)
        await end(watcher)
        await end(one)
        assert one.reasons == [ShutDown()]


async def test_down_moves_the_idle_time_as_any_message(autojump_clock):
    watcher, one = Poll(idle_timeout=4.0), Poll(idle_timeout=3.0)
    async with serve() as client:
        await start(client, watcher, one)
        watcher.monitor(one.ref)
        await watcher.ref.wait_ended()
        assert watcher.ended_at == 3 + 4
