"""The server: Hypercorn's Trio worker with a connection of its own for HTTP/1.1 and WebSocket.

It serves any ASGI application. Nothing here knows trioloop's handlers: what the two have to say to
each other stands in ``_scope.py``, as keys of ASGI's ``scope["extensions"]``.

========================  ====================================================================
``_settings``             what can be set, read from Hypercorn's ``Config``
``_head``, ``_body``      bytes of a request to values (no I/O)
``_response``             values to the bytes of a response (no I/O)
``_frames``               bytes to WebSocket messages and back (no I/O)
``_handshake``            a request to the answer that opens a WebSocket (no I/O)
``_scope``                a request to an ASGI scope, and our extensions of it
``_transport``            a socket or a TLS stream: reads that can be interrupted, bounded writes
``_deadlines``            one clock for all connections of a worker
``_turns``                writes of one turn of the scheduler, joined
``_connection``           one connection: requests one after the other, until it closes
``_exchange``             one request and its response: ASGI's ``receive`` and ``send``
``_websocket``            one WebSocket: ASGI's ``receive`` and ``send``
``_access``               lines of the access log
``_http2``                Hypercorn's HTTP/2, with its faults mended
``_worker``               Hypercorn's worker with these connections in it
``_processes``            several workers
``_versions``             whether the installed Hypercorn is one that all this fits
========================  ====================================================================
"""
