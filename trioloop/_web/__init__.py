"""Where the machine and the formats meet: ASGI, the kinds of handlers, routes and the app.

Routing, request parsing, cookies and middleware are Starlette's; none of it is written again here.
"""
