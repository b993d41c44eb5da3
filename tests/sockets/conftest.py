"""The suite runs on both workers; what only one can do says so with a mark of its own."""

import pytest
from support import sockets

ONLY_STOCK = {"test_platform", "test_shutdown"}
"""What is said of the stock worker itself, and what starts servers of both kinds by itself."""


def pytest_generate_tests(metafunc):
    if metafunc.module.__name__.rpartition(".")[2] not in ONLY_STOCK:
        metafunc.parametrize("worker", ["stock", "trioloop"], indirect=True, scope="function")


@pytest.fixture(autouse=True)
def worker(request, monkeypatch):
    """Whose worker serves in this test."""
    name = getattr(request, "param", "stock")
    monkeypatch.setattr(sockets, "WORKER", name)
    return name
