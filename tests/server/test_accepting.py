"""How connections are accepted: what they are given to, and what becomes of those that are not."""

import errno
import socket
from contextlib import asynccontextmanager

import pytest
import trio
from support.asgi import serving_app

from trioloop.server import _accepting
from trioloop.server._accepting import serve_listeners

OPTIONS = [
    (socket.IPPROTO_TCP, getattr(socket, name))
    for name in ("TCP_NODELAY", "TCP_NOTSENT_LOWAT")
    if hasattr(socket, name)
]


def listening(family=socket.AF_INET, name=("127.0.0.1", 0)):
    sock = socket.socket(family)
    sock.bind(name)
    sock.listen()
    return sock


def listener_on(sock):
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


@asynccontextmanager
async def accepting(serve, *listeners):
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(accept, serve, listener, nursery)
        yield
        nursery.cancel_scope.cancel()


async def accept(serve, listener, nursery):
    await serve_listeners(serve, [listener], handler_nursery=nursery)


async def first_of(sock):
    """The first connection that comes, and its client's socket."""
    send, receive = trio.open_memory_channel(1)

    async def serve(*connection):
        await send.send(connection)

    with socket.socket(sock.family) as client:
        async with accepting(serve, listener_on(sock)):
            client.connect(sock.getsockname())
            accepted, address = await receive.receive()
            yield accepted, address, client


async def test_a_connection_is_a_plain_socket_with_the_options_of_a_stream_of_trios():
    async for accepted, address, client in first_of(listening()):
        with accepted:
            assert type(accepted) is socket.socket
            assert not accepted.getblocking()
            assert not accepted.get_inheritable()
            assert address == client.getsockname()
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted.dup()))
            for option in OPTIONS:
                assert accepted.getsockopt(*option) == stream.getsockopt(*option) > 0
            await stream.aclose()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
async def test_a_unix_sockets_client_has_no_address(tmp_path):
    async for accepted, address, _ in first_of(listening(socket.AF_UNIX, str(tmp_path / "s"))):
        accepted.close()
        assert address is None


async def test_those_who_share_a_socket_share_what_comes():
    served = {"one": 0, "other": 0}
    all_served = trio.Event()

    def server(name):
        async def serve(sock, _client):
            sock.close()
            served[name] += 1
            if sum(served.values()) == 20:
                all_served.set()

        return serve

    sock = listening()
    address = sock.getsockname()
    again = sock.dup()
    clients = [socket.create_connection(address) for _ in range(20)]
    async with (
        accepting(server("one"), listener_on(sock)),
        accepting(server("other"), listener_on(again)),
    ):
        await all_served.wait()
    for client in clients:
        client.close()
    assert min(served.values()) > 5


async def test_nobody_listens_any_more_once_it_is_cancelled():
    async def serve(sock, _client):
        sock.close()

    sock = listening()
    address = sock.getsockname()
    async with accepting(serve, listener_on(sock)):
        await trio.testing.wait_all_tasks_blocked()
    with socket.socket() as client:
        assert client.connect_ex(address) == errno.ECONNREFUSED


# -- what accept() says of the system, and of clients -----------------------------------------------


@pytest.fixture
def failing(monkeypatch):
    """Errors that ``accept()`` says first, by their numbers."""
    errors = []
    theirs = socket.socket.accept

    def accept(self):
        if errors:
            raise OSError(errors.pop(0), "said by the test")
        return theirs(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    return errors


async def test_it_is_tried_again_where_the_system_has_no_room(failing, caplog, autojump_clock):
    failing += [errno.EMFILE, errno.ENOBUFS]
    begin = trio.current_time()
    async for accepted, _, _ in first_of(listening()):
        accepted.close()
    assert trio.current_time() == pytest.approx(begin + 2 * _accepting.PAUSE)
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2
    assert "no connection can be accepted: Too many open files" in caplog.text


async def test_a_client_that_has_gone_again_is_nobodys_trouble(failing, caplog):
    failing += [errno.ECONNABORTED, errno.EPERM, errno.EPROTO]
    async for accepted, _, _ in first_of(listening()):
        accepted.close()
    assert not caplog.records


async def test_what_will_never_work_ends_the_server(failing):
    failing += [errno.EINVAL]
    with pytest.RaisesGroup(pytest.RaisesGroup(pytest.RaisesExc(OSError, match="said by"))):
        async with accepting(None, listener_on(listening())):
            await trio.sleep_forever()


async def test_the_worker_bears_it_too(failing, caplog):
    failing += [errno.EMFILE, errno.ECONNABORTED]
    async with serving_app() as (server, _):
        assert await server.is_alive()
    assert "no connection can be accepted" in caplog.text
