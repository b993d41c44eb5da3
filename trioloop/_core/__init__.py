"""The machine: handlers, their loop, and how they reach each other.

It knows Trio and has never heard of HTTP. Whoever serves a handler gives it an `Output`.
"""
