"""Hypercorn's HTTP/2."""
async def serve_http2(*a): raise NotImplementedError
