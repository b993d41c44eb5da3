"""The opening handshake of a WebSocket: a request to the answer that accepts it.

The laws of this file:

* What the client may not say is refused before the application hears of it (RFC 6455, 4.2.1).
* What the application may not say is an error of its own, and nothing is written: a subprotocol
  that was not offered, a header that is the handshake's.
* Compression is agreed on only with small windows: its memory is known before it is used.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final

from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension
from websockets.utils import accept_key

from ._head import BadRequest, Head
from ._response import Fields, check_fields

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_OURS: Final = frozenset(
    b"connection upgrade content-length transfer-encoding sec-websocket-accept "
    b"sec-websocket-extensions sec-websocket-protocol".split()
)

DEFLATE: Final = ServerPerMessageDeflateFactory(
    server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
)
"""RFC 7692 with 32 KiB to compress and 4 KiB to decompress (or 32, for a client that cannot less)."""


class Handshake:
    """A client's wish for a WebSocket.

    Args:
        head: the request.

    Attributes:
        subprotocols: what it offers, in its order.

    Raises:
        BadRequest: it is no handshake of RFC 6455.
    """

    __slots__ = ("_extensions", "_key", "subprotocols")

    def __init__(self, head: Head) -> None:
        values: dict[bytes, list[bytes]] = {}
        for name, value in head.headers:
            if name.startswith(b"sec-websocket-"):
                values.setdefault(name, []).append(value)
        if values.get(b"sec-websocket-version") != [b"13"]:
            raise BadRequest(426, "a version that is not 13", [(b"sec-websocket-version", b"13")])
        keys = values.get(b"sec-websocket-key", [])
        if len(keys) != 1 or not _is_key(keys[0]):
            raise BadRequest(400, "not one Sec-WebSocket-Key of 16 bytes")
        if head.length != 0:
            raise BadRequest(400, "a handshake with a body")
        self._key: str = keys[0].decode()
        self._extensions: list[str] = _ascii(values.get(b"sec-websocket-extensions", []))
        offers = ",".join(_ascii(values.get(b"sec-websocket-protocol", [])))
        self.subprotocols: list[str] = [offer.strip(" \t") for offer in offers.split(",")]
        if not offers:
            self.subprotocols = []
        elif not all(map(_TOKEN.fullmatch, self.subprotocols)):
            raise BadRequest(400, "a malformed Sec-WebSocket-Protocol")

    def agree_on_deflate(self) -> tuple[bytes, Extension] | None:
        """Find an offer of compression that can be accepted.

        Returns:
            The header's value, and the extension; `None` when there is none.
        """
        for value in self._extensions:
            try:
                offers = parse_extension(value)
            except InvalidHeader:
                continue
            for name, parameters in offers:
                if name == DEFLATE.name:
                    try:
                        agreed, extension = DEFLATE.process_request_params(parameters, [])
                    except NegotiationError:
                        continue
                    return build_extension([(name, agreed)]).encode(), extension
        return None

    def accept(
        self,
        subprotocol: str | None,
        headers: Iterable[tuple[bytes, bytes]],
        defaults: Fields,
        extensions: bytes = b"",
    ) -> bytes:
        """The answer that opens the WebSocket.

        Args:
            subprotocol: what the application has chosen.
            headers: of the application.
            defaults: of the server.
            extensions: what was agreed on.

        Raises:
            ValueError: the application has chosen what cannot be sent.
        """
        fields = [b"upgrade: websocket\r\n", b"connection: Upgrade\r\n"]
        fields.append(b"sec-websocket-accept: %b\r\n" % accept_key(self._key).encode())
        if extensions:
            fields.append(b"sec-websocket-extensions: %b\r\n" % extensions)
        if subprotocol is not None:
            if subprotocol not in self.subprotocols:
                raise ValueError(f"the subprotocol {subprotocol!r} was not offered")
            fields.append(b"sec-websocket-protocol: %b\r\n" % subprotocol.encode())
        names: set[bytes] = set()
        for name, value in headers:
            names.add(name.lower())
            fields.append(b"%b: %b\r\n" % (name, value.strip(b" \t")))
        if names & _OURS:
            raise ValueError(f"headers that are the handshake's own: {sorted(names & _OURS)}")
        fields += [field for name, field in defaults if name not in names]
        block = b"".join(fields)
        check_fields(block, len(fields))
        return b"HTTP/1.1 101 Switching Protocols\r\n" + block + b"\r\n"


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def _ascii(values: list[bytes]) -> list[str]:
    try:
        return [value.decode("ascii") for value in values]
    except UnicodeDecodeError:
        raise BadRequest(400, "a header of the handshake that is not ASCII") from None
