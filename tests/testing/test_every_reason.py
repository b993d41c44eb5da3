"""Every terminate reason, in every phase in which it can happen, on every transport and in both faces."""

from __future__ import annotations

from typing import get_args

import pytest
import trio
from support.endings import CELLS, PHASES, PLAYED, ROWS, TERMINATING, TRANSPORTS, play, play_async

from trioloop import TerminateReason
from trioloop.testing import FakeClients

every_cell = pytest.mark.parametrize(
    "cell, worker",
    [
        pytest.param(cell, worker, id=" / ".join((*cell, worker)))
        for cell in PLAYED
        for worker in cell.workers
    ],
)


@pytest.fixture
def fake_client():
    return FakeClients()


@every_cell
def test_the_handler_ends_for_this_reason_in_a_simulation(cell, worker):
    play(cell, worker)


@every_cell
async def test_the_handler_ends_for_this_reason_in_an_async_test(cell, worker, fake_client):
    await play_async(cell, fake_client, worker)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("reason", get_args(TerminateReason))
def test_every_reason_is_reached_in_every_phase_or_it_is_said_why_not(reason, transport):
    rows = [row for row in ROWS.values() if row.reason_type is reason]
    for phase in PHASES:
        cells = [row.cell(phase, transport) for row in rows]
        reached = any(not isinstance(cell, str) for cell in cells)
        assert reached or all(isinstance(cell, str) and cell for cell in cells)
    assert any(
        not isinstance(row.cell(phase, transport), str)
        for row in rows
        for phase in PHASES
        if phase != TERMINATING
    )


def test_a_reason_why_not_is_a_sentence():
    reasons = {cell.content for cell in CELLS if isinstance(cell.content, str)}
    assert all(len(reason.split()) >= 2 for reason in reasons)


def test_both_faces_see_the_same():
    for cell in PLAYED:
        for worker in cell.workers:
            clients = FakeClients()
            face = trio.run(play_async, cell, clients, worker, clock=clients)
            assert face.exchange.transcript == play(cell, worker).exchange.transcript, cell
