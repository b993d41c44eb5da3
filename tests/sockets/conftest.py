"""The suite runs on both workers; what only one can do says so with ``@pytest.mark.only_worker``."""

import pytest
from support import sockets

SAYS_ITSELF = {"test_platform", "test_shutdown"}
"""What is said of the stock worker itself, and what starts servers of both kinds by itself."""


def pytest_generate_tests(metafunc):
    if metafunc.module.__name__.rpartition(".")[2] in SAYS_ITSELF:
        return
    only = metafunc.definition.get_closest_marker("only_worker")
    workers = only.args if only else ("stock", "trioloop")
    metafunc.parametrize("worker", workers, indirect=True)


@pytest.fixture(autouse=True)
def worker(request, monkeypatch):
    """Whose worker serves in this test."""
    name = getattr(request, "param", "stock")
    monkeypatch.setattr(sockets, "WORKER", name)
    return name
