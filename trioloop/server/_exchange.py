"""One request and its response, as ASGI's ``receive`` and ``send``.

The laws of this file:

* The head of a response is written with the first piece of its body, however small that is. The
  end of a response is written at the end of the turn: many such writes in a row cost less than
  each between other things, for a client that waits is not woken in the middle of them.
* After a disconnect ``receive`` says so as often as it is asked, and ``send`` raises `OSError`
  (ASGI 2.4). After a complete response ``receive`` says ``http.disconnect``, too.
* A response that cannot be completed is cut so that the client can tell.
* What an application raises, or does not do, ends its own request only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import trio

from ._body import Body, body_of
from ._head import BadRequest, Head
from ._listening import Call, Take
from ._response import CHUNKED, CLOSE, CONTINUE, Response, refusal
from ._scope import LISTEN, WRITE, Scope, http_scope
from ._transport import ClientGone, says_client_gone

if TYPE_CHECKING:
    from ._connection import Connection


class Exchange(Call):
    """One request and its response.

    Args:
        connection: where it came from.
        head: the head of the request.

    Raises:
        BadRequest: the request is too large.
    """

    __slots__ = (
        "_body",
        "_complete",
        "_flushed",
        "_head",
        "_keep_alive",
        "_refused",
        "_response",
        "_scope",
        "_started_at",
        "_streaming",
        "_told_body",
    )

    def __init__(self, connection: Connection, head: Head) -> None:
        super().__init__(connection)
        self._head = head
        self._body: Body = body_of(head, connection.worker.settings.max_body_size)
        self._told_body = False  # the application knows that it is complete
        self._response: Response | None = None
        self._flushed = False  # the head is written
        self._streaming = False  # ... and chunks may follow
        self._complete = False
        self._refused = False  # the request turned out to be malformed
        self._keep_alive = False
        self._started_at = time.perf_counter() if connection.worker.access.enabled else 0.0
        self._scope = self._make_scope()

    def _make_scope(self) -> Scope:
        scope = http_scope(self._head, self._connection.around)
        extensions = scope["extensions"]
        extensions[WRITE] = {
            "write_nowait": self.write_nowait,
            "write_soon": self.write_soon,
            "respond": self.respond,
            "is_own": self.is_own,
        }
        if self._connection.transport.can_push:
            extensions[LISTEN] = {
                "listen": self.listen,
                "cancelled": self.tell_cancelled,
                "cut": self.cut,
                "abandon": self.abandon,
                "is_own": self.is_own,
                "is_free": self.is_free,
            }
        return scope

    async def serve(self) -> bool:
        """Let the application answer; true when the connection can be used again."""
        # One function, where two would read better: each is a frame of every idle stream.
        worker = self._connection.worker
        ended = "shut-down"  # if nothing below is reached
        try:
            try:
                if worker.serves_host(self._head):
                    if worker.counts_requests:
                        await worker.count_request()
                    await worker.app(self._scope, self.receive, self.send)
                else:
                    await self._answer(404)
            except Exception as error:
                if not (self._connection.lost and says_client_gone(error)):
                    await worker.log.exception("Error in ASGI Framework")
            except BaseExceptionGroup as group:
                crash, rest = group.split(Exception)
                if crash is not None:
                    await worker.log.exception("Error in ASGI Framework")
                if rest is not None:
                    raise rest from None
            finally:
                self._over = True
                self._connection.end_listening()
                worker.cancellation.remove(self)
            ended = "complete" if self._is_answered() else await self._conclude()
        finally:
            if worker.access.enabled:
                await self._log(ended)
            self._scope = {}  # it leads back here: without this, only the collector would free both
        return self._keep_alive

    # -- the end ---------------------------------------------------------------------------------

    def _is_answered(self) -> bool:
        """Whether nothing is left to do or to find out, as after nearly every request."""
        connection = self._connection
        if not (self._complete and self._body.complete) or connection.lost:
            return False
        unread = connection.buffer and not self._keep_alive
        return not (unread or connection.worker.access.enabled)

    async def _conclude(self) -> str:
        """Do what the application left undone; returns how it ended."""
        connection = self._connection
        if connection.worker.access.enabled or not (self._complete and self._keep_alive):
            connection.flush()  # so that it is known how it ended
        try:
            if self._refused:
                await connection.linger()
            elif not connection.lost and not self._complete:
                if self._flushed:
                    return self._cut()
                await self._answer(500)
            if connection.lost or not self._complete:
                self._keep_alive = False
                return connection.lost or "cut"
            self._keep_alive = self._keep_alive and self._skip_body()
            if not self._keep_alive and (connection.buffer or not self._body.complete):
                await connection.linger()
        except ClientGone:
            self._keep_alive = False
            return connection.lost
        return "complete"

    def _cut(self) -> str:
        self._keep_alive = False
        assert self._response is not None
        if self._response.framing is CLOSE:
            self._connection.transport.abort()  # a mere close would be the end of the body
        return "cut"

    async def _answer(self, status: int) -> None:
        """Answer in place of the application."""
        self._response = Response(status, [(b"content-length", b"0")], "GET", "1.1")
        self._complete = self._flushed = True
        await self._connection.write(refusal(status, self._connection.worker.default_headers()))

    def _skip_body(self) -> bool:
        """Throw away what the application has not read; false when that is not here yet."""
        connection, body = self._connection, self._body
        while not body.complete:
            try:
                if not body.take(connection.buffer) and not body.complete:
                    data = connection.transport.receive_nowait()
                    if not data:
                        return False
                    connection.buffer += data
            except BadRequest:
                return False
        return True

    async def _log(self, ended: str) -> None:
        response, access = self._response, self._connection.worker.access
        with trio.CancelScope(shield=True):
            await access.write(
                self._scope,
                response.status if response and self._flushed else None,
                response.headers if response else (),
                sent=response.sent if response else 0,
                seconds=time.perf_counter() - self._started_at,
                ended=ended,
            )

    # -- the request -----------------------------------------------------------------------------

    async def receive(self) -> dict[str, Any]:
        """ASGI's ``receive``."""
        connection = self._connection
        if connection.listener is not None:
            raise RuntimeError("the application listens: it cannot receive, too")
        if connection.receiving:
            await connection.wait_for_other_receivers()
        connection.receiving = True
        try:
            if not self._told_body and not self._complete and not connection.lost:
                message = await self._receive_body()
                if message is not None:
                    return message
            if connection.lost or self._complete:
                await trio.lowlevel.checkpoint()
            while not (connection.lost or self._complete):
                await connection.look_ahead()
        finally:
            connection.end_receiving()
        return self.disconnect_message()

    async def _receive_body(self) -> dict[str, Any] | None:
        """The next piece of the body; `None` when the client has left."""
        connection, body = self._connection, self._body
        try:
            while not (connection.lost or self._complete):
                data = body.take(connection.buffer)
                if data or body.complete:
                    self._told_body = body.complete
                    if data:
                        await trio.lowlevel.checkpoint()
                    return {"type": "http.request", "body": data, "more_body": not body.complete}
                if self._head.expects_continue and not self._flushed:
                    self._head.expects_continue = False
                    connection.append(CONTINUE)  # it stays, should this `receive` be cancelled
                await connection.read_more()
        except BadRequest as refused:
            await self._refuse(refused)
        except ClientGone:
            pass  # said by connection.lost
        return None

    async def _refuse(self, refused: BadRequest) -> None:
        """The request is malformed or too slow: nobody knows what follows it."""
        connection = self._connection
        await connection.worker.log.debug("Refused with %d: %s", refused.status, refused)
        if not self._flushed:
            await self._answer(refused.status)
        self._refused = True
        connection.lose("refused")

    # -- the request, for whoever listens --------------------------------------------------------

    def listen(self, take: Take) -> Callable[[], None]:
        """Give what ``receive`` would return to a function, see ``_scope.py``."""
        return self.start_listening(self, take)

    def cut(self) -> None:
        """Close the connection under a response that has begun and will not be completed."""
        if self._flushed and not self._complete:
            self._connection.flush()  # so that it is known whether the client is slow
            if not self._connection.is_slow:
                self.abandon()  # a slow one gets what was written first: `serve` ends so, too

    def abandon(self) -> None:
        """Close the connection at once, whether there was an answer or not."""
        connection = self._connection
        if self._over:
            return
        connection.flush()
        if self._response is not None:
            self._cut()
        connection.transport.close()
        connection.lose("cut")

    def next_message(self) -> dict[str, Any] | None:
        """A piece of the body, or that it is over, see `Source`."""
        connection, body = self._connection, self._body
        if connection.lost or self._complete:
            return self.disconnect_message()
        if self._told_body:
            return None
        try:
            data = body.take(connection.buffer)
        except BadRequest as refused:
            self._refuse_nowait(refused)
            return self.disconnect_message()
        if data or body.complete:
            self._told_body = body.complete
            connection.worker.bodies.stop(connection)
            return {"type": "http.request", "body": data, "more_body": not body.complete}
        if self._head.expects_continue and not self._flushed:
            self._head.expects_continue = False
            connection.append(CONTINUE)
        return None

    def urgent_message(self) -> dict[str, Any] | None:
        """That it is over; behind what is unread only where the request is complete."""
        connection = self._connection
        if self._told_body:
            connection.note_end()
        return self.disconnect_message() if connection.lost or self._complete else None

    def read_nowait(self) -> bool:
        """Read some of the body; or of what follows, to see behind it whether the client leaves."""
        connection = self._connection
        if self._told_body and connection.is_far_ahead:
            return connection.note_end()
        read = connection.read_nowait()
        if not read and not self._told_body:
            connection.worker.bodies.start(connection)
        return read

    def pause(self) -> None:
        """Nobody waits for the body."""
        self._connection.worker.bodies.stop(self._connection)

    def expire(self) -> None:
        """The body took too long."""
        self._refuse_nowait(BadRequest(408, "a body that took too long"))

    def disconnect_message(self) -> dict[str, Any]:
        """That it is over."""
        return self._connection.explained({"type": "http.disconnect"})

    def _refuse_nowait(self, refused: BadRequest) -> None:
        connection, worker = self._connection, self._connection.worker
        worker.nursery.start_soon(worker.log.debug, f"Refused with {refused.status}: {refused}")
        if not self._flushed:
            self._response = Response(refused.status, [(b"content-length", b"0")], "GET", "1.1")
            self._complete = self._flushed = True
            connection.write_nowait(refusal(refused.status, worker.default_headers()))
        self._refused = True
        connection.lose("refused")

    # -- the response ----------------------------------------------------------------------------

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's ``send``.

        Raises:
            ClientGone: the client has gone; it is an `OSError`.
            RuntimeError: the message does not belong here.
            ValueError: it has something in it that cannot be sent.
            TypeError: it has something of the wrong type in it.
        """
        kind = message["type"]
        if kind == "http.response.body":
            body = message.get("body", b"")
            if message.get("more_body", False):
                if self._streaming:
                    if body:
                        self._response.sent += len(body)  # type: ignore[union-attr]
                        await self._connection.write(b"%x\r\n%b\r\n" % (len(body), body))
                else:
                    await self._send_piece(body)
            else:
                await self._send_last(body)
        elif kind == "http.response.start":
            await self._start(message)
        else:
            raise RuntimeError(f"{kind!r} is no message of a response that this server offers")

    async def _start(self, message: dict[str, Any]) -> None:
        await self._check_client()
        if self._response is not None:
            raise RuntimeError("the response has started already")
        headers = message.get("headers", ())
        self._response = Response(
            int(message["status"]), headers, self._head.method, self._head.version
        )

    async def _check_client(self) -> None:
        connection = self._connection
        if connection.lost:
            await trio.lowlevel.checkpoint()
            raise connection.loss()
        if self._complete:
            raise RuntimeError("the response is complete")

    async def _send_piece(self, body: bytes) -> None:
        """Write a piece of the body that is not the last, and the head before it."""
        await self._check_client()
        response = self._started()
        framed = response.frame(body)
        data = framed if self._flushed else self._flush_head(response) + framed
        if data:
            await self._connection.write(data)

    async def _send_last(self, body: bytes) -> None:
        """Write the end of the body, and the head before it."""
        await self._check_client()
        response = self._started()
        if not self._flushed:
            response.give_length(len(body))
        framed = response.frame(body) + response.end()
        data = framed if self._flushed else self._flush_head(response) + framed
        self._streaming = False
        if data and not self._connection.write_last(data):
            await self._connection.write(data)
        self._complete = True
        self._connection.wake()

    def _started(self) -> Response:
        if self._response is None:
            raise RuntimeError("the response has not started")
        return self._response

    def _flush_head(self, response: Response) -> bytes:
        head, worker = self._head, self._connection.worker
        self._keep_alive = (
            head.keep_alive
            and not response.wants_close
            and response.framing is not CLOSE
            and not head.expects_continue
            and not worker.draining
            and self._connection.requests < worker.settings.keep_alive_max_requests
        )
        self._flushed = True
        self._streaming = response.framing is CHUNKED
        return response.encode(
            worker.default_headers(), keep_alive=self._keep_alive, version=head.version
        )

    def write_nowait(self, body: bytes) -> bool:
        """Write a piece of the body at once, see ``_scope.py``.

        Raises:
            RuntimeError: the response has not started, or is complete, or has a known length.
        """
        if not self._takes(body):
            return False
        taken = self._connection.write_nowait(b"%x\r\n%b\r\n" % (len(body), body))
        if taken:
            self._started().sent += len(body)
        return taken

    def write_soon(self, body: bytes) -> bool:
        """Write a piece of the body at the end of the turn, see ``_scope.py``.

        Raises:
            RuntimeError: the response has not started, or is complete, or has a known length.
        """
        if not (self._streaming and body):
            return self._takes(body)
        connection, response = self._connection, self._response
        if response is None or not connection.write_soon(connection.worker.framed(body)):
            return False
        response.sent += len(body)
        return True

    def respond(
        self,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        *,
        more: bool = False,
    ) -> bool:
        """Write a response, or its beginning, at the end of the turn, see ``_scope.py``.

        Raises:
            ValueError: it has something in it that cannot be sent.
            TypeError: it has something of the wrong type in it.
        """
        connection = self._connection
        if self._response is not None or not connection.make_room(len(body)):
            return False
        response = Response(status, headers, self._head.method, self._head.version)
        if more:
            framed = response.frame(body)
        else:
            response.give_length(len(body))
            framed = response.frame(body) + response.end()
        self._response = response
        connection.append(self._flush_head(response) + framed)
        if not more:
            self._streaming = False
            self._complete = True
            if connection.listener is None:
                connection.wake()
            else:  # whoever listens has done this, and need not be told that it is over
                connection.end_listening()
        return True

    def _takes(self, body: bytes) -> bool:
        if self._connection.lost:
            return False
        if not self._streaming:
            raise RuntimeError("only a response that has started and is not complete takes more")
        return bool(body)
