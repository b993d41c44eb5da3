"""What these tests are given."""

from __future__ import annotations

import pytest

from trioloop.testing import FakeClients


@pytest.fixture
def fake_client():
    return FakeClients()  # as the plugin's: tests/testing/test_traps.py has that one
