"""One WebSocket, as ASGI's ``receive`` and ``send``.

The laws of this file:

* Frames are read when the application receives, so a client is never faster than it. Only where
  the application is busy for `PUMP_SECONDS` are frames read ahead, for the pings among them.
* A closing frame is answered, a closing of our own is waited for, and neither takes longer than
  ``close_timeout``.
* Whatever ends it, the client gets a closing frame, if it can still be reached (RFC 6455, 7.1.1).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

import trio

from ._frames import Frames
from ._handshake import Handshake
from ._head import Head
from ._listening import Call, Take
from ._response import Response, refusal
from ._scope import LISTEN, WEBSOCKET, Scope, websocket_scope
from ._transport import ClientGone, Interrupted, says_client_gone

if TYPE_CHECKING:
    from ._connection import Connection

PUMP_SECONDS: Final = 1.0
"""How long a client's ping may wait for an application that is busy."""
PATIENCE: Final = 3
"""Pings that a client may leave unanswered."""


class State(Enum):
    """The life of a WebSocket, as the application has made it."""

    CONNECTING = auto()
    OPEN = auto()
    REFUSING = auto()
    DONE = auto()  # refused, or closed by the application


class WebSocket(Call):
    """One WebSocket.

    Args:
        connection: where its handshake came from.
        head: the handshake.

    Raises:
        BadRequest: it is none.
    """

    __slots__ = (
        "_frames",
        "_handshake",
        "_head",
        "_missed",
        "_response",
        "_scope",
        "_sent",
        "_started_at",
        "_state",
        "_told_connect",
        "_watched",
    )

    def __init__(self, connection: Connection, head: Head) -> None:
        super().__init__(connection)
        self._handshake: Handshake | None = Handshake(head)
        subprotocols = self._handshake.subprotocols
        self._head = head
        self._scope = self._make_scope(list(subprotocols))
        self._state = State.CONNECTING
        self._frames: Frames | None = None  # until it is accepted
        self._response: Response | None = None  # of a refusal
        self._told_connect = False
        self._missed = 0  # pings
        self._watched = False  # somebody will look whether the application is busy
        self._sent = 0
        self._started_at = time.perf_counter() if connection.worker.access.enabled else 0.0

    def _make_scope(self, subprotocols: list[str]) -> Scope:
        scope = websocket_scope(self._head, self._connection.around, subprotocols)
        scope["extensions"][WEBSOCKET] = {"send_soon": self.send_soon, "is_own": self.is_own}
        if self._connection.transport.can_push:
            scope["extensions"][LISTEN] = {
                "listen": self.listen,
                "cancelled": self.tell_cancelled,
                "abandon": self.abandon,
                "is_own": self.is_own,
                "is_free": self.is_free,
            }
        return scope

    async def serve(self) -> bool:
        """Let the application serve it, to its end; false, for that is the connection's, too."""
        connection, worker = self._connection, self._connection.worker
        ended = "shut-down"  # if nothing below is reached
        crashed = True
        try:
            if worker.serves_host(self._head):
                crashed = not await self._call_application()
                self._end_listening()
            else:
                await self._refuse(404)
            await self._conclude(crashed=crashed)
            ended = self._how_it_ended()
        finally:
            self._end_listening()
            worker.pings.stop(self)
            if ended == "shut-down":
                self._say_goodbye()
            if worker.access.enabled:
                await self._log(ended)
            connection.lose("closed")
            self._scope = {}  # it leads back here: without this, only the collector would free both
        return False

    async def _call_application(self) -> bool:
        """Call it; false when it crashed."""
        worker = self._connection.worker
        try:
            if worker.counts_requests:
                await worker.count_request()
            await worker.app(self._scope, self.receive, self.send)
        except Exception as error:
            if not says_client_gone(error):
                await worker.log.exception("Error in ASGI Framework")
            return False
        except BaseExceptionGroup as group:
            crash, rest = group.split(Exception)
            if crash is not None:
                await worker.log.exception("Error in ASGI Framework")
            if rest is not None:
                raise rest from None
            return False
        return True

    # -- the end ---------------------------------------------------------------------------------

    async def _conclude(self, *, crashed: bool) -> None:
        connection = self._connection
        try:
            if self._frames is not None and self._frames.violation:
                await connection.linger()
            elif connection.lost:
                return
            elif self._state is State.CONNECTING:
                await self._refuse(500)
            elif self._state is State.REFUSING:
                connection.transport.abort()  # it cannot be completed
            elif self._frames is not None:
                if self._state is State.OPEN:
                    await self._close(1011 if crashed else 1000, "")
                await self._wait_for_close(self._frames)
        except ClientGone:
            pass

    async def _wait_for_close(self, frames: Frames) -> None:
        connection = self._connection
        with trio.move_on_after(connection.worker.settings.close_timeout):
            while not frames.closed:
                frames.inbox.clear()
                if connection.buffer:
                    frames.feed(connection.buffer)
                    frames.take_replies()  # after our closing frame nothing is sent
                    if frames.inbox or frames.closed:
                        continue
                try:
                    data = await connection.transport.receive()
                except Interrupted:
                    continue
                if not data:
                    return
                connection.buffer += data

    def _say_goodbye(self) -> None:
        """The call was cancelled, so the server goes down: a closing frame, if it fits."""
        if self._frames is not None and not self._connection.lost:
            self._connection.write_later(self._frames.encode_close(1012, ""))
            self._connection.flush()

    def _how_it_ended(self) -> str:
        if self._frames is None:
            return self._connection.lost or "complete"
        return str(self._frames.disconnect_message()["code"])

    async def _log(self, ended: str) -> None:
        accepted = self._frames is not None
        status = 101 if accepted else self._response.status if self._response else None
        headers = self._response.headers if self._response else []
        access = self._connection.worker.access
        with trio.CancelScope(shield=True):
            await access.write(
                self._scope,
                status,
                headers,
                sent=self._sent,
                seconds=time.perf_counter() - self._started_at,
                ended=ended,
            )

    # -- what comes ------------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        """ASGI's ``receive``."""
        if self._connection.listener is not None:
            raise RuntimeError("the application listens: it cannot receive, too")
        if not self._told_connect:
            self._told_connect = True
            return {"type": "websocket.connect"}
        connection = self._connection
        if connection.receiving:
            await connection.wait_for_other_receivers()
        connection.receiving = True
        try:
            while self._state is State.CONNECTING and not connection.lost:
                await connection.look_ahead()
            if self._frames is not None:
                return await self._next_message(self._frames)
        finally:
            connection.end_receiving()
            self.pause()
        await trio.lowlevel.checkpoint()
        return self.disconnect_message()

    async def _next_message(self, frames: Frames) -> dict[str, Any]:
        connection = self._connection
        waited = False
        while not frames.inbox:
            if connection.buffer:
                frames.feed(connection.buffer)
                await self._write_replies(frames)
                if frames.inbox:
                    break
            if frames.closed or connection.lost:
                connection.lose("disconnected")
                if not waited:
                    await trio.lowlevel.checkpoint()
                return self.disconnect_message()
            waited = True
            await self._read(frames)
        if not waited:
            await trio.lowlevel.checkpoint()
        return frames.inbox.pop(0)

    async def _read(self, frames: Frames) -> None:
        connection = self._connection
        if not connection.has_room:
            await connection.wait_for_room()
        try:
            data = await connection.transport.receive()
        except Interrupted:
            return
        if not data:
            frames.feed_end()
            connection.lose("disconnected")
        connection.buffer += data

    async def _write_replies(self, frames: Frames) -> None:
        """Answer pings and a closing frame; a `receive` that is cancelled takes no answer with it."""
        replies = frames.take_replies()
        if replies:
            self._connection.append(replies)
            if frames.closed and not self._connection.lost:
                with suppress(ClientGone):  # it is told that it has closed
                    await self._connection.write(b"")

    # -- what comes, for whoever listens ---------------------------------------------------------

    def listen(self, take: Take) -> Callable[[], None]:
        """Give what ``receive`` would return to a function, see ``_scope.py``."""
        return self.start_listening(self, take)

    def abandon(self) -> None:
        """Close the connection at once, without a closing frame."""
        if not self._over:
            self._connection.transport.close()
            self._connection.lose("cut")

    def _end_listening(self) -> None:
        self._over = True
        self._connection.end_listening()
        worker = self._connection.worker
        worker.cancellation.remove(self)
        worker.pumps.stop(self)

    def next_message(self) -> dict[str, Any] | None:
        """What ``receive`` would return of what is here, see `Source`."""
        connection, frames = self._connection, self._frames
        if not self._told_connect:
            self._told_connect = True
            return {"type": "websocket.connect"}
        if frames is None:
            gone = connection.lost or self._state is not State.CONNECTING
            return self.disconnect_message() if gone else None
        if not frames.inbox and connection.buffer:
            self._feed(frames)
        if frames.inbox:
            return frames.inbox.pop(0)
        if frames.closed and connection.is_slow and not connection.lost:
            return None  # until it has taken our closing frame
        if frames.closed or connection.lost:
            connection.lose("disconnected")
            return self.disconnect_message()
        return None

    def _feed(self, frames: Frames) -> None:
        frames.feed(self._connection.buffer)
        replies = frames.take_replies()
        if replies:
            self._connection.append(replies)
            if frames.closed:
                self._connection.flush()

    def urgent_message(self) -> dict[str, Any] | None:
        """Nothing: what comes behind a message is not known before it has been taken."""
        return None

    def read_nowait(self) -> bool:
        """Read some frames; or what comes before the WebSocket is accepted."""
        connection, frames = self._connection, self._frames
        if frames is None:
            return connection.note_end() if connection.is_far_ahead else connection.read_nowait()
        if frames.closed or not connection.has_room:
            return False
        read = connection.read_nowait()
        if connection.lost:
            frames.feed_end()
        return read

    def pause(self) -> None:
        """Nobody reads: soon somebody has to look whether there are pings."""
        if not self._watched and self._state is State.OPEN and not self._connection.lost:
            self._watched = True
            self._connection.worker.pumps.start(self)

    def expire(self) -> None:
        """Frames have no deadline."""

    def disconnect_message(self) -> dict[str, Any]:
        """That it is over."""
        message = {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        if self._frames is not None:
            message = self._frames.disconnect_message()
        return self._connection.explained(message)

    # -- by the clock ----------------------------------------------------------------------------

    def pump(self) -> None:
        """Read ahead for an application that is busy; a client may be waiting for a pong."""
        connection, frames = self._connection, self._frames
        self._watched = False
        if frames is None or connection.lost or frames.closed or connection.receiving:
            return
        if not frames.inbox and not connection.buffer and connection.has_room:
            data = connection.transport.receive_nowait()
            if data:
                connection.buffer += data
                self._feed(frames)
            elif data is not None:
                frames.feed_end()
                connection.lose("disconnected")
                return
        self._watched = True
        connection.worker.pumps.start(self)

    def heartbeat(self) -> None:
        """Send a ping; give up a client that has not answered the last ones."""
        connection, frames = self._connection, self._frames
        if frames is None or connection.lost or frames.closed:
            return
        if frames.heard or not connection.receiving:  # what nobody reads cannot be heard
            self._missed = 0
        frames.heard = False
        self._missed += 1
        if self._missed > PATIENCE:
            frames.feed_end()
            connection.lose("timed-out")
            connection.transport.abort()
            return
        connection.write_later(frames.encode_ping(b""))
        connection.worker.pings.start(self)

    # -- what goes -------------------------------------------------------------------------------

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's ``send``.

        Raises:
            ClientGone: the client has gone; it is an `OSError`.
            RuntimeError: the message does not belong here.
            ValueError: it has something in it that cannot be sent.
        """
        connection = self._connection
        if connection.lost or (self._frames is not None and self._frames.closed):
            await trio.lowlevel.checkpoint()
            error = ClientGone(f"the client is gone: {connection.lost or 'it has closed'}")
            why = self.disconnect_message()
            del why["type"]
            error.why = why
            raise error
        kind = message["type"]
        if kind == "websocket.send" and self._state is State.OPEN:
            await self._send_data(message)
        elif kind == "websocket.ping" and self._state is State.OPEN:
            assert self._frames is not None
            self._frames.tells_pongs = True
            await connection.write(self._frames.encode_ping(bytes(message.get("bytes") or b"")))
        elif kind == "websocket.accept" and self._state is State.CONNECTING:
            await self._accept(message)
        elif kind == "websocket.close" and self._state is State.CONNECTING:
            await self._refuse(403)
        elif kind == "websocket.close" and self._state is State.OPEN:
            code = message.get("code")
            await self._close(1000 if code is None else int(code), message.get("reason") or "")
        elif kind == "websocket.http.response.start" and self._state is State.CONNECTING:
            self._start_refusal(message)
        elif kind == "websocket.http.response.body" and self._response is not None:
            await self._send_refusal(message)
        else:
            raise RuntimeError(
                f"{kind!r} does not belong here: the WebSocket is {self._state.name}"
            )

    async def _send_data(self, message: dict[str, Any]) -> None:
        assert self._frames is not None
        text = message.get("text")
        data = self._frames.encode(message["bytes"] if text is None else text)
        self._sent += len(data)
        await self._connection.write(data)

    def send_soon(self, message: dict[str, Any]) -> bool:
        """Write a message at the end of the turn, see ``_scope.py``."""
        connection, frames = self._connection, self._frames
        if frames is None or frames.closed or self._state is not State.OPEN:
            return False
        kind = message["type"]
        if kind not in ("websocket.send", "websocket.ping"):
            raise RuntimeError(f"{kind!r} cannot be sent soon")
        text = message.get("text")
        payload: bytes = bytes(message.get("bytes") or b"") if text is None else text.encode()
        # Before it is encoded: a compressed message that is not sent would spoil what follows.
        if not connection.make_room(len(payload)):
            return False
        if kind == "websocket.ping":
            frames.tells_pongs = True
            data = frames.encode_ping(payload)
        else:
            data = frames.encode_payload(payload, is_text=text is not None)
            self._sent += len(data)
        connection.append(data)
        return True

    async def _accept(self, message: dict[str, Any]) -> None:
        connection, worker, handshake = self._connection, self._connection.worker, self._handshake
        assert handshake is not None
        limit = worker.settings.max_message_size
        tells_pongs = "max_message_size" in message or "deflate" in message
        if tells_pongs:
            limit = int(min(limit, message.get("max_message_size", limit)))
        wanted = message.get("deflate", worker.settings.deflate)
        header, extension = (wanted and handshake.agree_on_deflate()) or (b"", None)
        answer = handshake.accept(
            message.get("subprotocol"),
            message.get("headers", ()),
            worker.default_headers(),
            header,
        )
        self._handshake = None
        self._frames = Frames(limit, extension)
        self._frames.tells_pongs = tells_pongs
        self._state = State.OPEN
        worker.pings.start(self)
        await connection.write(answer)
        connection.wake()  # behind the answer: frames that came early may have to be answered

    async def _close(self, code: int, reason: str) -> None:
        assert self._frames is not None
        data = self._frames.encode_close(code, reason)
        self._state = State.DONE
        if data:
            await self._connection.write(data)

    async def _refuse(self, status: int) -> None:
        self._state = State.DONE
        self._response = Response(status, [(b"content-length", b"0")], "GET", "1.1")
        await self._connection.write(refusal(status, self._connection.worker.default_headers()))

    def _start_refusal(self, message: dict[str, Any]) -> None:
        if self._response is not None:
            raise RuntimeError("the response has started already")
        headers = message.get("headers", ())
        self._response = Response(int(message["status"]), headers, "GET", "1.1")

    async def _send_refusal(self, message: dict[str, Any]) -> None:
        """Answer the handshake with a response, whose end is that of the connection."""
        response, connection = self._response, self._connection
        assert response is not None
        if self._state is State.DONE:
            raise RuntimeError("the response is complete")
        body, data = bytes(message.get("body", b"")), b""
        if self._state is State.CONNECTING:
            self._state = State.REFUSING
            if not message.get("more_body", False):
                response.give_length(len(body))
            data = response.encode(
                connection.worker.default_headers(), keep_alive=False, version="1.1"
            )
        data += response.frame(body)
        self._sent += len(body)
        if not message.get("more_body", False):
            self._state = State.DONE
            data += response.end()
        await connection.write(data)
