"""The pytest plugin: the fixture ``fake_client``.

Law of this file: loading it imports nothing of trioloop; the kit is imported when a test asks for
the fixture. So that even the package is not imported, the wheel has this file a second time, as the
top-level module ``pytest_trioloop``, which is what pytest loads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from trioloop.testing import FakeClients


@pytest.fixture
def fake_client() -> FakeClients:
    """Fake clients on virtual time.

    Use it as ``async with fake_client(app) as client``. It is the clock of the test's Trio run as well; pytest-trio takes it from here.
    """
    from trioloop.testing import FakeClients

    return FakeClients()
