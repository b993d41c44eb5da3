"""What a handler class may look like."""

from __future__ import annotations

import pytest

from trioloop import EventStreamHandler, LoopHandler, WebSocketHandler


@pytest.mark.parametrize(
    "kind, slip, option",
    [
        (LoopHandler, "idle_timout", "idle_timeout"),
        (LoopHandler, "idle_time_out", "idle_timeout"),
        (LoopHandler, "mailboxsize", "mailbox_size"),
        (EventStreamHandler, "terminate_timeouts", "terminate_timeout"),
        (WebSocketHandler, "max_messsage_size", "max_message_size"),
    ],
)
def test_an_option_that_is_misspelt_is_refused_with_the_right_name(kind, slip, option):
    with pytest.raises(TypeError, match=rf"^Chat\.{slip} is no option of a handler, but {option} "):
        type("Chat", (kind,), {slip: 5.0})


def test_a_handler_may_have_attributes_and_methods_of_its_own():
    class Chat(WebSocketHandler):
        room = "lobby"
        timeout = 3.0
        max_users = 10
        _idle_timout = 4.0

        def idle_timeouts(self):
            return 0

    class Loud(Chat):
        room = "stage"
        idle_timeout = 7.0

    assert (Loud.idle_timeout, Loud.max_users) == (7.0, 10)


def test_a_class_that_is_not_a_handler_may_be_mixed_in():
    class Counts:
        def __init_subclass__(cls, **kwargs):
            super().__init_subclass__(**kwargs)
            cls.counted = True

    class Chat(Counts, LoopHandler):
        pass

    assert Chat.counted
