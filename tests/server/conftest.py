"""These tests are about our worker, unless one says something of the stock one beside it."""

import pytest
from support import sockets


@pytest.fixture(autouse=True)
def worker(request, monkeypatch):
    """Whose worker serves in this test."""
    name = getattr(request, "param", "trioloop")
    monkeypatch.setattr(sockets, "WORKER", name)
    return name
