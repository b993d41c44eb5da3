"""A server process that is told to end: what it does with a hundred streams and a stalled client.

``python -m hypercorn -k trio`` tells no application that it goes down; ``trioloop serve`` does.
"""

import re
import signal
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from support.processes import server_process
from support.sockets import DEADLINE, connected

STREAMS = 100

APPLICATION = """
import trio

from trioloop import App, EventStreamHandler, LoopHandler, ServerSentEvent

app = App()


def report(handler, reason):
    print("ended", handler.request.url.path, reason, flush=True)


@app.route("/events")
class Events(EventStreamHandler):
    def init(self, request):
        return ServerSentEvent("first")

    def terminate(self, reason):
        report(self, reason)


@app.route("/large", send_timeout=600)
class Large(Events):
    def init(self, request):
        return [ServerSentEvent("first"), ServerSentEvent("x" * 2**24)]


@app.route("/slow", terminate_timeout=0.5)
class SlowToTerminate(Events):
    async def terminate(self, reason):
        report(self, reason)
        await trio.sleep_forever()


@app.route("/poll", idle_timeout=600)
class Poll(LoopHandler):
    def init(self, request):
        print("polled", flush=True)

    def terminate(self, reason):
        report(self, reason)


@app.route("/busy", idle_timeout=600)
class Busy(LoopHandler):
    async def init(self, request):
        print("busy", flush=True)
        await trio.sleep_forever()

    def terminate(self, reason):
        report(self, reason)
"""

HYPERCORN = ("-m", "hypercorn", "-k", "trio")
TRIOLOOP = ("-m", "trioloop", "serve")

TERMINATE_TIMEOUT = 5  # the longest of the handlers above
MARGIN = 20  # for machines that are busy with something else


@asynccontextmanager
async def served(tmp_path, command, graceful_timeout):
    """The application in a process of its own."""
    (tmp_path / "application.py").write_text(APPLICATION)
    options = ["--bind", "127.0.0.1:0", "--graceful-timeout", str(graceful_timeout)]
    async with server_process([*command, *options, "application:app"], cwd=tmp_path) as server:
        yield server


@asynccontextmanager
async def streaming(port, path="/events", count=1, **options):
    """Clients whose streams are open."""
    with trio.fail_after(DEADLINE):
        async with AsyncExitStack() as stack:
            clients = []
            for _ in range(count):
                client = await stack.enter_async_context(connected(port, **options))
                await client.request(path=path)
                assert (await client.head()).status_code == 200
                await client.until("first")
                clients.append(client)
            yield clients


def endings(server):
    """What ``terminate`` heard, as pairs of path and reason."""
    return sorted(re.findall(r"^ended (\S+) (.*)$", server.output, re.MULTILINE))


async def test_a_stalled_client_among_open_streams_does_not_hold_hypercorn_when_it_shall_end(
    tmp_path,
):
    async with (
        served(tmp_path, HYPERCORN, graceful_timeout=1) as server,
        streaming(server.port, "/large", receive_buffer=4096),
        streaming(server.port, count=STREAMS),
    ):
        server.send_signal(signal.SIGTERM)
        assert await server.wait(within=1 + TERMINATE_TIMEOUT + MARGIN) == 0, server.output
        heard = endings(server)
        assert heard == [("/events", "ShutDown()")] * STREAMS + [("/large", "ShutDown()")]
        assert "Traceback" not in server.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
async def test_trioloop_serve_ends_every_stream_with_retry_and_is_not_held_by_a_stalled_client(
    tmp_path, number
):
    retries = []

    async def read_to_the_end(client):
        body = await client.rest()  # raises Cut without a last chunk
        found = re.fullmatch(rb"data: first\n\nretry: (\d+)\n\n", body)
        assert found is not None, body
        retries.append(int(found[1]))

    async with (
        served(tmp_path, TRIOLOOP, graceful_timeout=1) as server,
        streaming(server.port, "/large", receive_buffer=4096),
        streaming(server.port, count=STREAMS) as clients,
    ):
        server.send_signal(number)
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(read_to_the_end, client)
        assert await server.wait(within=1 + TERMINATE_TIMEOUT + MARGIN) == 0, server.output
        heard = endings(server)
        assert heard == [("/events", "ShutDown()")] * STREAMS + [("/large", "ShutDown()")]
        assert "Traceback" not in server.output
    assert len(retries) == STREAMS
    assert all(2000 <= retry <= 6000 for retry in retries)
    assert len(set(retries)) > STREAMS // 2, "drawn apart, so that they do not all return at once"


async def test_trioloop_serve_needs_none_of_its_grace_when_every_client_reads(tmp_path):
    """The handlers are told at once: nothing waits for a cancellation that would come in an hour."""
    async with (
        served(tmp_path, TRIOLOOP, graceful_timeout=3600) as server,
        streaming(server.port) as (stream,),
        connected(server.port) as poll,
        connected(server.port) as busy,
    ):
        await poll.request(path="/poll")
        await server.printed("polled")
        await busy.request(path="/busy")
        await server.printed("busy")
        server.send_signal(signal.SIGTERM)
        assert (await stream.rest()).startswith(b"data: first\n\nretry: ")
        for client in (poll, busy):
            answer = await client.answer()
            assert answer.status == 503
            assert 1 <= int(answer.headers["retry-after"]) <= 3
            assert await client.end() == b""
        assert await server.wait() == 0, server.output
        assert endings(server) == [
            ("/busy", "ShutDown()"),
            ("/events", "ShutDown()"),
            ("/poll", "ShutDown()"),
        ]


@pytest.mark.parametrize("command", [HYPERCORN, TRIOLOOP], ids=["hypercorn", "trioloop"])
async def test_a_terminate_that_hangs_holds_the_process_for_terminate_timeout_only(
    tmp_path, command
):
    async with (
        served(tmp_path, command, graceful_timeout=0) as server,
        streaming(server.port, "/slow"),
    ):
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0, server.output
        assert endings(server) == [("/slow", "ShutDown()")]
        assert "terminate" in server.output, "it is reported"


async def test_a_stream_gets_its_farewell_under_hypercorn_too_when_the_grace_is_over(tmp_path):
    async with (
        served(tmp_path, HYPERCORN, graceful_timeout=0) as server,
        streaming(server.port) as (stream,),
    ):
        server.send_signal(signal.SIGTERM)
        assert re.fullmatch(rb"data: first\n\nretry: \d+\n\n", await stream.rest())
        assert await server.wait() == 0, server.output
        assert endings(server) == [("/events", "ShutDown()")]
