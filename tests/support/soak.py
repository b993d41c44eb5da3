"""A soak: many WebSockets that echo, leave, stall and crash, and what is left behind by them.

``python tests/support/soak.py`` runs it (``nox -s soak_websockets``), with ``--worker stock`` on Hypercorn's own
worker; 2,000 WebSockets for 60 s by default.

Laws of this file:

* The server is a process of its own, and says itself what it holds: tasks, descriptors, memory.
* An equal round comes first: memory is what the largest crowd needed, and that is no leak.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.sockets import connected
from support.websocket_peer import CLOSE, TEXT, RawWebSocket, close_frame, frame

REMEMBERED = 32
"""Seconds after which Trio forgets the last deadlines that were lifted: a server's ``send_timeout``."""

APPLICATION = """
import ctypes, gc, os
import trio
from trioloop import App, Limits, LoopHandler, Reply, Send, WebSocketHandler

app = App(limits=Limits(handlers=10_000))


@app.route("/echo", send_timeout=2)
class Echo(WebSocketHandler):
    def receive(self, data):
        if data == "crash":
            raise RuntimeError("planted")
        return [Send(data)] * (200 if data.startswith("much") else 1)


@app.route("/statistics")
class Statistics(LoopHandler):
    def init(self, request):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        pages = int(open("/proc/self/statm").read().split()[1])
        return Reply.json({
            "handlers": self.hub.statistics().handlers,
            "ended": dict(self.hub.statistics().ended),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "descriptors": len(os.listdir("/proc/self/fd")),
            "objects": len(gc.get_objects()),
            "megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        })
"""


async def statistics(port: int) -> dict[str, Any]:
    """What the server holds."""
    async with connected(port) as client:
        await client.request(path="/statistics", headers=[("connection", "close")])
        return json.loads((await client.answer()).body)


class Crowd:
    """The clients.

    Args:
        port: of the server.
        seed: of all that is random.

    Attributes:
        counts: what they did.
    """

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()

    async def run(self, clients: int, seconds: float) -> None:
        """So many at a time, for so long."""
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for _ in range(clients):
                    nursery.start_soon(self._keep_coming)
                    await trio.sleep(min(0.002, seconds / 4 / clients))

    async def _keep_coming(self) -> None:
        while True:
            with suppress(OSError, AssertionError, trio.BrokenResourceError):
                async with connected(self.port, receive_buffer=4096) as connection:
                    websocket = RawWebSocket(connection)
                    status = await websocket.open("/echo")
                    self.counts[f"status {status}"] += 1
                    await self._talk(websocket)

    async def _talk(self, websocket: RawWebSocket) -> None:
        while self.random.random() > 0.05:
            text = self.random.randbytes(self.random.randrange(50)).hex().encode()
            await websocket.send(frame(TEXT, b"x" + text))
            answer = await websocket.next()
            assert answer is not None
            assert answer.payload == b"x" + text
            self.counts["echoes"] += 1
            await trio.sleep(self.random.uniform(0, 4))
        how = self.random.choice(("close", "end", "reset", "half", "crash", "stall"))
        self.counts[how] += 1
        await getattr(self, f"_{how}")(websocket)

    async def _close(self, websocket: RawWebSocket) -> None:
        await websocket.send(close_frame(self.random.choice((1000, 1001, 4000))))
        await websocket.until_close()

    async def _end(self, websocket: RawWebSocket) -> None:
        websocket.connection.close()

    async def _reset(self, websocket: RawWebSocket) -> None:
        websocket.connection.reset()

    async def _half(self, websocket: RawWebSocket) -> None:
        await websocket.connection.half_close()
        await websocket.until_close()

    async def _crash(self, websocket: RawWebSocket) -> None:
        await websocket.send(frame(TEXT, b"crash"))
        frames = await websocket.until_close()
        assert frames[-1].opcode == CLOSE
        assert frames[-1].code == 1011
        self.counts["saw 1011"] += 1

    async def _stall(self, websocket: RawWebSocket) -> None:
        much = frame(TEXT, b"much" + b"x" * 60_000)
        await websocket.send(much)
        await trio.sleep(4)


async def at_rest(port: int, tasks: float = math.inf) -> dict[str, Any]:
    """What the server holds when all clients have gone; waits until it has noticed.

    Args:
        port: of the server.
        tasks: how many there were before.
    """
    looks = [await statistics(port)]
    with trio.move_on_after(90):
        while (
            looks[-1]["handlers"] > 1 or looks[-1]["tasks"] > tasks or len(looks) < 5
        ):  # this look is one of the handlers
            await trio.sleep(1)
            looks.append(await statistics(port))
    return {
        key: looks[-1][key] if key == "ended" else min(look[key] for look in looks[-4:])
        for key in looks[0]
    }


async def soak(port: int, clients: int, seconds: float, seed: int) -> int:
    """Run the soak, and print what it has left behind. 0 when that is nothing."""
    await Crowd(port, seed + 1).run(clients, seconds)
    await trio.sleep(REMEMBERED)
    before = await at_rest(port)
    crowd = Crowd(port, seed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(crowd.run, clients, seconds))
        await trio.sleep(seconds * 0.9)
        print("during:", json.dumps(await statistics(port)))
    await trio.sleep(REMEMBERED)
    after = await at_rest(port, before["tasks"])
    print("did:   ", json.dumps(dict(sorted(crowd.counts.items()))))
    print("before:", json.dumps(before))
    print("after: ", json.dumps(after))
    left = [key for key in ("handlers", "tasks", "descriptors") if after[key] > before[key]]
    left += ["objects"] if after["objects"] > before["objects"] * 1.02 else []
    if after["megabytes"] > before["megabytes"] * 1.1 + 5:
        left.append("megabytes")
    print(f"left behind: {', '.join(left) or 'nothing'}")
    return len(left)


async def main(arguments: argparse.Namespace) -> int:
    """Start the server, run the soak, end the server."""
    folder = Path(arguments.folder)
    (folder / "soaked.py").write_text(APPLICATION, encoding="utf-8")
    serve = [sys.executable, "-m", "trioloop", "serve"]
    if arguments.worker == "stock":
        serve = [sys.executable, "-m", "hypercorn", "-k", "trio"]
    command = [*serve, "--bind", f"127.0.0.1:{arguments.port}", "soaked:app"]
    env = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{folder}"}
    log = (folder / "soak.log").open("w")
    process = await trio.lowlevel.open_process(
        command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        with trio.fail_after(30):
            while True:
                with suppress(OSError, AssertionError):
                    await statistics(arguments.port)
                    break
                await trio.sleep(0.2)
        return await soak(arguments.port, arguments.clients, arguments.seconds, arguments.seed)
    finally:
        process.send_signal(signal.SIGTERM)
        with trio.move_on_after(15):
            await process.wait()
        process.kill()


if __name__ == "__main__":
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--worker", choices=("trioloop", "stock"), default="trioloop")
    with tempfile.TemporaryDirectory() as folder:
        parser.set_defaults(folder=folder)
        sys.exit(trio.run(main, parser.parse_args()))
