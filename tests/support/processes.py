"""Servers in processes of their own, on free ports of this machine.

The laws of this file:

* A server chooses its own port (``--bind 127.0.0.1:0``) and says which: tests never compete.
* Whoever waits, waits for what the server says or does, under an outer deadline; nobody sleeps.
* When the context ends, so has the server, with every process that it started.

Example::

    command = ["-m", "hypercorn", "-k", "trio", "--bind", "127.0.0.1:0", "app:app"]
    async with server_process(command, cwd=tmp_path) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        ...
        server.send_signal(signal.SIGTERM)
        await server.printed("draining")
        assert await server.wait() == 0, server.output
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import trio

LISTENING = r"https?://(?:127\.0\.0\.1|localhost|\[::1\]):(?P<port>\d+)"
"""What a server prints when it listens: its URL, in Hypercorn's own line or any other."""

DEADLINE = 30.0
"""Seconds that nothing here takes, unless it hangs."""


class ServerProcess:
    """A running server; made by `server_process`."""

    def __init__(self, process: trio.Process) -> None:
        self.port = 0
        """The TCP port that it listens on; 0 if it did not print one."""
        self._process = process
        self._output = bytearray()
        self._news = trio.Event()
        self._silent = False

    @property
    def output(self) -> str:
        """All that it has printed so far, stdout and stderr as they came."""
        return self._output.decode(errors="replace")

    async def printed(self, pattern: str, *, within: float = DEADLINE) -> re.Match[str]:
        """Wait until its output matches a regular expression.

        Args:
            pattern: Searched for in all that it has printed, with ``re.MULTILINE``.
            within: Seconds to wait at most.

        Returns:
            The first match.

        Raises:
            AssertionError: It ended, or the time did, and nothing matched.
        """
        with trio.move_on_after(within):
            while True:
                news = self._news
                if match := re.search(pattern, self.output, re.MULTILINE):
                    return match
                if self._silent:
                    break
                await news.wait()
        command = self._process.args
        raise AssertionError(f"no {pattern!r} in the output of {command}:\n{self.output}")

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself, not to those that it started."""
        self._process.send_signal(number)

    def send_signal_to_all(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it started, as systemd and a terminal do."""
        os.killpg(self._process.pid, number)

    async def wait(self, *, within: float = DEADLINE) -> int:
        """Wait for its end, and for the last of its output.

        Args:
            within: Seconds to wait at most.

        Returns:
            Its exit code; negative for the signal that killed it.

        Raises:
            AssertionError: It still runs.
        """
        with trio.move_on_after(within):
            code = await self._process.wait()
            while not self._silent:
                await self._news.wait()
            return code
        raise AssertionError(f"{self._process.args} has not ended:\n{self.output}")

    async def _read(self, stdout: trio.abc.ReceiveStream) -> None:
        async with stdout:
            async for data in stdout:
                self._output += data
                self._tell()
        self._silent = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self.wait()


@asynccontextmanager
async def server_process(
    arguments: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    ready: str = LISTENING,
    within: float = DEADLINE,
    pass_fds: Sequence[int] = (),
) -> AsyncGenerator[ServerProcess, None]:
    """Run this Python with `arguments`, and wait until it is ready; it is killed in the end.

    Args:
        arguments: What follows ``python``: ``["-m", "trioloop", "serve", …]``.
        cwd: The working directory, with the application; this one by default.
        env: Variables on top of those of this process.
        ready: The regular expression whose match in the output says that it is ready; its group
            ``port``, if it has one, becomes `ServerProcess.port`.
        within: Seconds until it must be ready.
        pass_fds: Open files that it gets under the same numbers.

    Yields:
        The server.

    Raises:
        AssertionError: It ended before it was ready, or took too long.
    """
    process = await trio.lowlevel.open_process(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**environment(), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a process group, to end it as a whole
        pass_fds=pass_fds,
    )
    assert process.stdout is not None
    server = ServerProcess(process)
    # A system task, so that a test's failure is not wrapped by a nursery. It ends with the output.
    trio.lowlevel.spawn_system_task(server._read, process.stdout)
    try:
        found = await server.printed(ready, within=within)
        server.port = int(found.groupdict().get("port") or 0)
        yield server
    finally:
        with trio.CancelScope(shield=True):
            await server._end()


async def finished_process(
    arguments: Sequence[str | Path], *, cwd: Path | None = None, within: float = DEADLINE
) -> "subprocess.CompletedProcess[str]":
    """Run this Python with `arguments` to its end.

    Args:
        arguments: What follows ``python``.
        cwd: The working directory; this one by default.
        within: Seconds until it must have ended.

    Returns:
        Its exit code and what it printed, stdout and stderr apart.

    Raises:
        trio.TooSlowError: It took too long, and was killed.
    """
    with trio.fail_after(within):
        done = await trio.run_process(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env=environment(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def environment() -> dict[str, str]:
    """Give the environment in which a process finds the same trioloop as this one."""
    spec = find_spec("trioloop")
    assert spec is not None
    found = Path(next(iter(spec.submodule_search_locations or []))).parent
    # An installed package is found anyway; site-packages before the standard library would harm.
    paths = [] if found.name == "site-packages" else [str(found)]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def wait_for_the_supervisor(pipe: Connection) -> None:
    """Be a worker that ends when its supervisor closes the pipe, or after some seconds."""
    with suppress(EOFError):
        pipe.poll(DEADLINE)
