"""Alarms and the clock that looks at them: they ring at their time, whatever it was before.

Every sleep here is virtual: each test has pytest-trio's ``autojump_clock``.
"""

import gc
import math
import weakref
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trioloop._core import _alarms
from trioloop._core._alarms import Alarm, Clock


class Bell:
    """Notes when it rings.

    Args:
        then: what else it does.

    Attributes:
        times: when it has rung, in Trio's seconds.
    """

    def __init__(self, then=lambda: None):
        self.times = []
        self._then = then

    def __call__(self):
        self.times.append(trio.current_time())
        self._then()


@asynccontextmanager
async def running():
    """A clock that runs."""
    clock = Clock()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        await trio.testing.wait_all_tasks_blocked()
        yield clock
        nursery.cancel_scope.cancel()


def heap_of(clock):
    return clock._heap


@pytest.mark.parametrize("when", [0, 0.25, 3600])
async def test_an_alarm_rings_once_at_its_time(autojump_clock, when):
    bell = Bell()
    async with running() as clock:
        alarm = Alarm(clock, bell)
        alarm.ring_at(when)
        assert alarm.due == when
        await trio.sleep(10_000)
        assert bell.times == [when]
        assert alarm.due == math.inf


async def test_an_alarm_whose_time_has_passed_rings_at_once(autojump_clock):
    bell = Bell()
    async with running() as clock:
        await trio.sleep(5)
        Alarm(clock, bell).ring_at(1)
        await trio.testing.wait_all_tasks_blocked()
        assert bell.times == [5]


async def test_an_alarm_never_rings_inside_of_ring_at(autojump_clock):
    bell = Bell()
    async with running() as clock:
        Alarm(clock, bell).ring_at(-1)
        assert bell.times == []
        await trio.testing.wait_all_tasks_blocked()
        assert bell.times == [0]


async def test_an_alarm_that_was_never_set_never_rings(autojump_clock):
    bell = Bell()
    async with running() as clock:
        alarm = Alarm(clock, bell)
        await trio.sleep(10_000)
        assert alarm.due == math.inf
    assert bell.times == []


async def test_alarms_set_before_the_clock_runs_ring_when_it_does(autojump_clock):
    clock, past, future = Clock(), Bell(), Bell()
    Alarm(clock, past).ring_at(1)
    Alarm(clock, future).ring_at(3)
    await trio.sleep(2)
    with trio.move_on_after(10):
        await clock.run()
    assert (past.times, future.times) == ([2], [3])


async def test_an_alarm_that_was_moved_to_a_later_time_rings_then_only(autojump_clock):
    bell = Bell()
    async with running() as clock:
        alarm = Alarm(clock, bell)
        alarm.ring_at(1)
        alarm.ring_at(5)
        await trio.sleep(20)
    assert bell.times == [5]


async def test_an_alarm_that_is_moved_on_and_on_rings_once_and_keeps_one_place(autojump_clock):
    bell = Bell()
    async with running() as clock:
        alarm = Alarm(clock, bell)
        for _ in range(100):
            alarm.ring_at(trio.current_time() + 5)
            assert len(heap_of(clock)) == 1
            await trio.sleep(1)
        await trio.sleep(20)
    assert bell.times == [99 + 5]


async def test_an_alarm_that_was_moved_to_an_earlier_time_rings_then_only(autojump_clock):
    bell = Bell()
    async with running() as clock:
        alarm = Alarm(clock, bell)
        alarm.ring_at(5)
        await trio.sleep(1)
        alarm.ring_at(2)
        await trio.sleep(20)
    assert bell.times == [2]


async def test_an_alarm_that_was_moved_to_and_fro_rings_at_the_last_time_only(autojump_clock):
    bell = Bell()
    async with running() as clock:
        alarm = Alarm(clock, bell)
        for when in (5, 2, 7, 1, 4, 5):
            alarm.ring_at(when)
        await trio.sleep(20)
    assert bell.times == [5]


async def test_an_alarm_that_was_put_off_for_ever_does_not_ring_until_it_is_set_again(
    autojump_clock,
):
    bell = Bell()
    async with running() as clock:
        alarm = Alarm(clock, bell)
        alarm.ring_at(1)
        alarm.ring_at(math.inf)
        await trio.sleep(5)
        assert bell.times == []
        assert heap_of(clock) == []
        alarm.ring_at(6)
        await trio.sleep(5)
    assert bell.times == [6]


async def test_an_alarm_rings_again_when_it_is_set_again(autojump_clock):
    bell = Bell()
    async with running() as clock:
        alarm = Alarm(clock, bell)
        for when in (1, 3):
            alarm.ring_at(when)
            await trio.sleep(2)
    assert bell.times == [1, 3]


async def test_an_alarm_may_be_set_again_from_within_its_ring(autojump_clock):
    def again():
        if len(bell.times) < 4:
            alarm.ring_at(trio.current_time() + 2)

    bell = Bell(again)
    async with running() as clock:
        alarm = Alarm(clock, bell)
        alarm.ring_at(1)
        await trio.sleep(20)
    assert bell.times == [1, 3, 5, 7]


async def test_an_alarm_set_from_within_its_ring_for_now_rings_again_at_once(autojump_clock):
    def again():
        if len(bell.times) < 3:
            alarm.ring_at(trio.current_time())

    bell = Bell(again)
    async with running() as clock:
        alarm = Alarm(clock, bell)
        alarm.ring_at(1)
        await trio.sleep(20)
    assert bell.times == [1, 1, 1]


async def test_a_ring_may_move_and_stop_others(autojump_clock):
    def move():
        stopped.stop()
        earlier.ring_at(2)
        later.ring_at(9)

    bells = [Bell(move), Bell(), Bell(), Bell()]
    async with running() as clock:
        first, stopped, earlier, later = (Alarm(clock, bell) for bell in bells)
        first.ring_at(1)
        stopped.ring_at(1)
        earlier.ring_at(5)
        later.ring_at(1)
        await trio.sleep(20)
    assert [bell.times for bell in bells] == [[1], [], [2], [9]]


async def test_alarms_of_one_time_ring_in_the_order_in_which_they_were_set(autojump_clock):
    rung = []
    async with running() as clock:
        for number in (3, 1, 2):
            Alarm(clock, lambda number=number: rung.append(number)).ring_at(1)
        await trio.sleep(2)
    assert rung == [3, 1, 2]


async def test_alarms_ring_in_the_order_of_their_times(autojump_clock):
    rung = []
    async with running() as clock:
        for when in (3, 1, 2, 5, 4):
            Alarm(clock, lambda when=when: rung.append(when)).ring_at(when)
        await trio.sleep(10)
    assert rung == [1, 2, 3, 4, 5]


async def test_a_stopped_alarm_never_rings_even_if_it_is_set_again(autojump_clock):
    bell = Bell()
    async with running() as clock:
        alarm = Alarm(clock, bell)
        alarm.ring_at(2)
        await trio.sleep(1)
        alarm.stop()
        assert alarm.due == math.inf
        alarm.ring_at(3)
        await trio.sleep(20)
    assert bell.times == []


async def test_an_alarm_may_be_stopped_twice_and_from_within_its_ring(autojump_clock):
    bell = Bell(lambda: alarm.stop())  # noqa: PLW0108 - made below
    async with running() as clock:
        alarm = Alarm(clock, bell)
        alarm.ring_at(1)
        await trio.sleep(2)
        alarm.stop()
    assert bell.times == [1]


async def test_a_stopped_alarm_lets_go_of_its_function_before_its_time_has_come(autojump_clock):
    async with running() as clock:
        bell = Bell()
        gone = weakref.ref(bell)
        alarm = Alarm(clock, bell)
        alarm.ring_at(3600)
        alarm.stop()
        del bell
        gc.collect()
        assert gone() is None
        assert heap_of(clock), "its place is still there"


async def test_many_stopped_alarms_are_cleared_away_before_their_times_have_come(autojump_clock):
    bell = Bell()
    async with running() as clock:
        kept = Alarm(clock, bell)
        kept.ring_at(10)
        for _ in range(5 * _alarms.MANY):
            alarm = Alarm(clock, bell)
            alarm.ring_at(5)
            alarm.stop()
            assert len(heap_of(clock)) <= _alarms.MANY + 2
        await trio.sleep(20)
    assert bell.times == [10]


async def test_many_stopped_alarms_are_cleared_away_from_among_many_that_are_not(autojump_clock):
    count = 4 * _alarms.MANY
    bell = Bell()
    async with running() as clock:
        alarms = [Alarm(clock, bell) for _ in range(count)]
        for place, alarm in enumerate(alarms):
            alarm.ring_at(count - place)
        for alarm in alarms[:-10]:
            alarm.stop()
        assert len(heap_of(clock)) <= 2 * _alarms.MANY
        await trio.sleep(count)
    assert bell.times == list(range(1, 11))


async def test_alarms_that_are_never_set_and_stopped_leave_nothing_behind(autojump_clock):
    async with running() as clock:
        for _ in range(3 * _alarms.MANY):
            Alarm(clock, Bell()).stop()
        assert heap_of(clock) == []


async def test_an_alarm_that_goes_to_and_fro_leaves_few_places_behind(autojump_clock):
    async with running() as clock:
        alarm = Alarm(clock, lambda: None)
        for _ in range(20 * _alarms.MANY):
            alarm.ring_at(trio.current_time() + 1000)
            alarm.ring_at(trio.current_time() + 1)
            await trio.sleep(2)
        assert len(heap_of(clock)) <= 2 * _alarms.MANY
