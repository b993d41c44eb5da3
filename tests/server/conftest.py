"""These tests are about our worker, unless one says something of the stock one beside it."""

import pytest
from support import sockets

from trioloop.server import _readiness


@pytest.fixture(autouse=True)
def worker(request, monkeypatch):
    """Whose worker serves in this test."""
    name = getattr(request, "param", "trioloop")
    monkeypatch.setattr(sockets, "WORKER", name)
    return name


@pytest.fixture(autouse=True)
def watcher(request, monkeypatch):
    """Who waits for sockets: ``epoll`` for all of a worker together, ``trio`` for each."""
    name = getattr(request, "param", "epoll" if _readiness.available else "trio")
    if name == "epoll" and not _readiness.available:
        pytest.skip("there is no epoll here")
    monkeypatch.setattr(_readiness, "available", name == "epoll")
    return name
