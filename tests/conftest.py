"""Ctrl-C does in every test what it does in a terminal."""

import signal


def pytest_configure():
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs inherit that
        signal.signal(signal.SIGINT, signal.default_int_handler)
