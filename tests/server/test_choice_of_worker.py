"""Which worker serves, and how to tell."""

import pytest
import trio
from support.asgi import answer, serving_app

from trioloop import _serve
from trioloop.server import _versions


async def app(scope, receive, send):
    await answer(send, b"own" if "trioloop.write" in scope["extensions"] else b"stock")


async def served_by(**settings):
    async with serving_app(app, **settings) as (server, client):
        await client.request()
        return (await client.answer()).body, server.errors.all


async def test_ours_serves():
    body, log = await served_by()
    assert body == b"own"
    assert not any("does not fit" in line for line in log)


async def test_the_stock_one_serves_where_it_is_asked_for():
    body, log = await served_by(worker="stock")
    assert body == b"stock"
    assert not any("does not fit" in line for line in log)


async def test_the_stock_one_serves_with_one_warning_where_ours_does_not_fit(monkeypatch):
    monkeypatch.setattr(_serve, "find_misfit", lambda: "Hypercorn is 0.99")
    body, log = await served_by()
    assert body == b"stock"
    assert len([line for line in log if "does not fit (Hypercorn is 0.99)" in line]) == 1


def test_what_is_installed_fits():
    assert _versions.find_misfit() is None


MISFITS = {
    "another version": ("version", lambda name: "0.19.0", "Hypercorn is 0.19.0"),
    "a part that is gone": (
        "_PARTS",
        {"hypercorn.trio.run": ("gone",)},
        "hypercorn.trio.run has no gone",
    ),
    "a module that is gone": ("_PARTS", {"hypercorn.gone": ()}, "ModuleNotFoundError"),
}


@pytest.mark.parametrize("name, value, said", MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_named(monkeypatch, name, value, said):
    monkeypatch.setattr(_versions, name, value)
    assert said in (_versions.find_misfit() or "")


async def test_both_workers_can_serve_in_one_process():
    async with trio.open_nursery() as nursery:
        bodies = []

        async def ask(**settings):
            bodies.append((await served_by(**settings))[0])

        nursery.start_soon(ask)
        nursery.start_soon(lambda: ask(worker="stock"))
    assert sorted(bodies) == [b"own", b"stock"]
