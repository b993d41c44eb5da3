"""The chat: two members see each other, whichever way they came."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from trioloop.testing import Simulation


@pytest.fixture
def app(monkeypatch):
    path = Path(__file__).parents[2] / "examples" / "chat.py"
    spec = importlib.util.spec_from_file_location("examples.chat", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "examples.chat", module)
    spec.loader.exec_module(module)
    return module.app


def test_members_hear_each_other_come_speak_and_go(app):
    with Simulation(app, laws=True) as sim:
        ann = sim.websocket("/rooms/lobby?name=ann")
        bob = sim.websocket("/rooms/lobby?name=bob")
        other = sim.websocket("/rooms/other?name=cid")
        bob.send("hello")
        bob.close()
        assert [json.loads(message) for message in ann.messages] == [
            {"note": "here: ann"},
            {"note": "bob has come"},
            {"who": "bob", "text": "hello"},
            {"note": "bob has gone"},
        ]
        assert len(other.messages) == 1


def test_a_member_without_a_websocket_hears_the_same(app):
    with Simulation(app) as sim:
        ann = sim.websocket("/rooms/lobby?name=ann")
        opened = sim.post("/rooms/lobby?name=bob").json()
        path = f"/rooms/lobby?session={opened['session']}"
        sim.post(path, body="hello")
        ann.send("hi")
        told = sim.get(f"{path}&after=0").json()["messages"]
        assert [json.loads(message["text"]) for message in told] == [
            {"note": "here: ann, bob"},
            {"who": "bob", "text": "hello"},
            {"who": "ann", "text": "hi"},
        ]
        assert json.loads(ann.messages[-2]) == {"who": "bob", "text": "hello"}


def test_a_name_is_taken_once_in_a_room(app):
    with Simulation(app) as sim:
        assert sim.websocket("/rooms/lobby?name=ann").accepted
        assert sim.websocket("/rooms/lobby?name=ann").status == 409
        assert sim.websocket("/rooms/other?name=ann").accepted
        assert sim.websocket("/rooms/lobby").status == 400


def test_who_talks_too_fast_is_closed(app):
    with Simulation(app) as sim:
        ann = sim.websocket("/rooms/lobby?name=ann")
        ann.burst(*["x"] * 30)
        assert ann.close_code == 1008


def test_the_page_is_there(app):
    with Simulation(app) as sim:
        assert "new WebSocket" in sim.get("/").text
