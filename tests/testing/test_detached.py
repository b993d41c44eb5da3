"""A handler outside of any run: its callbacks are plain functions."""

from __future__ import annotations

import pytest
import trio

from trioloop import (
    EventStreamHandler,
    Hub,
    LoopHandler,
    Reply,
    ServerSentEvent,
    Stop,
    Stopped,
    TimedOut,
)
from trioloop.testing import detached


class Poll(LoopHandler[str]):
    def init(self, request):
        self.join(f"user:{request.query_params['who']}")

    def info(self, message):
        return Reply(200, body=message)


class Stream(EventStreamHandler[str]):
    def info(self, message):
        return ServerSentEvent(message, id=str(int(self.last_event_id or 0) + 1))


def test_the_example_of_the_documentation():
    poll = detached(Poll(), path="/poll?who=ann")
    assert poll.init(poll.request) is None
    assert poll.info("hi") == Reply(200, body="hi")


def test_it_is_the_same_handler_with_a_ref_a_hub_and_a_request():
    handler = Poll()
    poll = detached(handler, "/poll?who=ann", method="post", headers={"X-One": "1"})
    assert poll is handler
    assert (poll.request.method, poll.request.url.path) == ("POST", "/poll")
    assert poll.request.headers["x-one"] == "1"
    assert isinstance(poll.hub, Hub)
    assert poll.ref.id.startswith(poll.hub.id)


def test_what_the_route_found_in_the_path_can_be_given():
    poll = detached(Poll(), "/rooms/7", path_params={"room": 7})
    assert poll.request.path_params == {"room": 7}


def test_the_default_callbacks_can_be_called():
    poll = detached(LoopHandler())
    assert poll.init(poll.request) is None
    assert poll.info(Stop()) == Stop()
    assert poll.idle() == Stop(TimedOut())
    assert poll.terminate(Stopped()) is None
    with pytest.raises(TypeError, match="info"):
        poll.info("text")


def test_an_event_stream_knows_the_last_event_id():
    stream = detached(Stream(), headers={"Last-Event-ID": "7"})
    assert stream.last_event_id == "7"
    assert stream.info("hi") == ServerSentEvent("hi", id="8")
    assert detached(Stream()).last_event_id is None


def test_handlers_with_the_same_hub_meet_and_messages_wait():
    hub = Hub()
    ann, bob = (detached(Poll(), f"/poll?who={who}", hub=hub) for who in ("ann", "bob"))
    for poll in (ann, bob):
        poll.init(poll.request)
    ann.register("ann")
    assert hub.whereis("ann") is ann.ref
    assert [member.ref for member in hub.members("user:bob")] == [bob.ref]
    assert hub.broadcast("user:ann", "hi") == 1
    assert bob.ref.send_nowait("hi") is True
    assert [poll.ref.statistics().messages_waiting for poll in (ann, bob)] == [1, 1]


def test_the_body_of_the_request_is_empty_and_nobody_waits_for_it():
    poll = detached(Poll(), method="POST")
    assert trio.run(poll.request.body) == b""


@pytest.mark.parametrize(
    "arguments, error, sentence",
    [
        ({"handler": Poll}, TypeError, "a handler, not <class"),
        ({"handler": Poll(), "path": "poll"}, ValueError, "a path starts with '/'"),
    ],
)
def test_what_cannot_be_is_refused(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        detached(**arguments)


def test_an_impossible_option_is_refused():
    class Odd(Poll):
        mailbox_size = 0

    with pytest.raises(ValueError, match="mailbox_size must be at least 1"):
        detached(Odd())


def test_a_detached_handler_is_no_longer_new():
    poll = detached(Poll())
    with pytest.raises(TypeError, match="a handler serves one request"):
        detached(poll)
