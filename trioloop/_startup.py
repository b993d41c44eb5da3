"""What an operator has asked for, found to be possible before anything runs.

The law of this file: what an operator can mend (a missing module, an address in use, an unreadable
key) is a `CannotServeError`, one line that names the value. Any other failure keeps its traceback.
"""

from __future__ import annotations

import copy
import inspect
import logging
import os
import sys
import traceback
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from hypercorn.config import Config, Sockets, SocketTypeError
from hypercorn.trio.statsd import StatsdLogger
from hypercorn.utils import NoAppError, load_application, write_pid_file

if TYPE_CHECKING:
    from collections.abc import Generator

    from hypercorn.app_wrappers import ASGIWrapper

    from ._serve import Application


class CannotServeError(Exception):
    """The server cannot run as asked, and the operator can mend it.

    Args:
        message: One line that names the offending value and the way out.
        detail: More lines for those who ask for them, such as a traceback; empty when there are
            none.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail

    def report(self, *, verbose: bool = False) -> int:
        """Write the line to stderr, after the detail if `verbose`.

        Returns:
            The exit code of a server that cannot run, 1.
        """
        more = "; --log-level debug shows more" if self.detail and not verbose else ""
        sys.stderr.write(f"{self.detail if verbose else ''}trioloop: {self}{more}\n")
        return 1


def check_settings(config: Config) -> None:
    """Refuse the values of a configuration file that Hypercorn would stumble over much later."""
    for name in ("bind", "insecure_bind", "quic_bind"):
        if not all(isinstance(each, str) for each in _as_list(getattr(config, name))):
            raise _unfit(config, name, "addresses such as '127.0.0.1:8000'")
    for name in ("graceful_timeout", "keep_alive_timeout"):
        if not _is_number(getattr(config, name), int, float):
            raise _unfit(config, name, "seconds, 0 or more")
    for name in ("workers", "backlog"):
        if not _is_number(getattr(config, name), int):
            raise _unfit(config, name, "a whole number, 0 or more")


def _as_list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else [None]


def _is_number(value: object, *kinds: type[int | float]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and value >= 0


def _unfit(config: Config, name: str, wanted: str) -> CannotServeError:
    return CannotServeError(f"{name} is {getattr(config, name)!r}: it takes {wanted}")


def check_tls(config: Config) -> None:
    """Find out now what Hypercorn would find after the application's startup, or not at all."""
    if config.certfile is None and config.keyfile is None and config.ca_certs is None:
        return
    if config.certfile is None or config.keyfile is None:
        # Hypercorn would serve without TLS.
        given = config.certfile or config.keyfile or config.ca_certs
        raise CannotServeError(f"{given!r} alone makes no TLS: give both --certfile and --keyfile")
    for path in filter(None, (config.certfile, config.keyfile, config.ca_certs)):
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise CannotServeError(
                f"cannot read the TLS file {path!r}: {error.strerror}"
            ) from error
        if path == config.keyfile and b"ENCRYPTED" in content and not config.keyfile_password:
            # OpenSSL would ask on the terminal, which a service does not have.
            raise CannotServeError(f"the key in {path!r} is encrypted: give --keyfile-password")
    try:
        config.create_ssl_context()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise CannotServeError(
            f"cannot use the TLS files (--certfile {config.certfile!r}, "
            f"--keyfile {config.keyfile!r}, --ca-certs {config.ca_certs!r}): {error}; "
            "they are PEM files that belong together, with the right --keyfile-password"
        ) from error


def importable(application: str | Application) -> str:
    if not isinstance(application, str):
        raise CannotServeError(
            f"{application!r} is an object, which other processes cannot load: name it as "
            "'module:attribute', or do without workers, reloading and max_requests"
        )
    return spelt_out(application)


def spelt_out(application: str) -> str:
    """Give the full form of Hypercorn's path to an application, ``asgi:module:attribute``.

    Left to guess, Hypercorn takes a callable that is not ``async def`` for a WSGI application.
    """
    mode, _, rest = application.partition(":")
    if mode == "wsgi":
        raise CannotServeError(f"{application!r} is WSGI; what is served here is ASGI")
    path = rest if mode == "asgi" else application
    return f"asgi:{path}" if ":" in path else f"asgi:{path}:app"


def loaded(application: str) -> Application:
    """Import the application.

    Raises:
        CannotServeError: The module or the attribute is missing, importing it failed, or it is
            not an ASGI application.
    """
    path = spelt_out(application)
    try:
        wrapper = load_application(path, Config.wsgi_max_body_size)
    except Exception as error:
        raise _not_loaded(path, error) from error
    app = cast("ASGIWrapper", wrapper).app
    _check_asgi(path, app)
    return app


def _not_loaded(path: str, error: Exception) -> CannotServeError:
    _, module, attribute = path.split(":", 2)
    cause = (isinstance(error, NoAppError) and error.__context__) or error
    frames = traceback.extract_tb(cause.__traceback__)
    ours = ("<frozen ", f"{Path(__file__).parent}{os.sep}")  # where an option is refused, say
    last = [frame for frame in frames if not frame.filename.startswith(ours)][-1]
    if isinstance(cause, ModuleNotFoundError) and f"{Path(module).name}.".startswith(
        f"{cause.name}."
    ):
        return CannotServeError(
            f"cannot load '{module}:{attribute}': no module {cause.name!r}; "
            "--app-dir names the directory to look in"
        )
    # "<string>" is where Hypercorn evaluates the attribute.
    if isinstance(cause, NameError | AttributeError) and last.filename == "<string>":
        return CannotServeError(
            f"cannot load '{module}:{attribute}': module {module!r} has no {attribute!r}; "
            "name the application as module:attribute"
        )
    # A SyntaxError says where it is itself.
    where = "" if isinstance(cause, SyntaxError) else f" ({last.filename}, line {last.lineno})"
    return CannotServeError(
        f"cannot load '{module}:{attribute}': {type(cause).__name__}: {cause}{where}",
        "".join(traceback.format_exception(cause)),
    )


def _check_asgi(path: str, app: object) -> None:
    name = path.removeprefix("asgi:")
    if not callable(app):
        raise CannotServeError(
            f"{name!r} is {app!r}, which cannot be called: "
            "name an ASGI application as module:attribute"
        )
    try:
        inspect.signature(app).bind("scope", "receive", "send")
    except TypeError:
        raise CannotServeError(
            f"{name!r} cannot be called with (scope, receive, send), so it is not an ASGI "
            f"application; if it makes one, write '{name}()'"
        ) from None
    except ValueError:  # a callable without a signature: written in C
        pass


# What Config.create_sockets raises: in use or unknown, a bad number, a port too high, fd:// of UDP.
BIND_ERRORS: Final = (OSError, ValueError, OverflowError, SocketTypeError)


@contextmanager
def listening(config: Config) -> Generator[Sockets, None, None]:
    """Listen on the configured addresses, each by itself, so that a failure can name its address.

    Raises:
        CannotServeError: One of them cannot be bound or listened on.
    """
    sockets = Sockets([], [], [])
    with ExitStack() as opened:
        for part in _address_by_address(config):
            try:
                made = part.create_sockets()
                streams = [*made.secure_sockets, *made.insecure_sockets]
                for each in (*streams, *made.quic_sockets):
                    opened.enter_context(each)
                for each in streams:
                    each.listen(config.backlog)
            except BIND_ERRORS as error:
                name = ", ".join((*part.bind, *part.insecure_bind, *part.quic_bind))
                raise CannotServeError(
                    f"cannot listen on {name}: {getattr(error, 'strerror', None) or error}; "
                    "--bind takes another address"
                ) from error
            sockets.secure_sockets.extend(made.secure_sockets)
            sockets.insecure_sockets.extend(made.insecure_sockets)
            sockets.quic_sockets.extend(made.quic_sockets)
        yield sockets


def _address_by_address(config: Config) -> list[Config]:
    if config.quic_bind:
        return [config]  # it has to make the QUIC sockets itself, to announce their addresses
    parts: list[Config] = []
    for kind in ("bind", "insecure_bind"):
        for address in getattr(config, kind):
            part = copy.copy(config)
            part.bind, part.insecure_bind = [], []
            setattr(part, kind, [address])
            parts.append(part)
    return parts


@contextmanager
def pid_file(path: str | None) -> Generator[None, None, None]:
    """Keep the number of this process in a file, until it ends."""
    if path is None:
        yield
        return
    try:
        write_pid_file(path)
    except OSError as error:
        raise CannotServeError(f"cannot write the PID file {path!r}: {error.strerror}") from error
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)


def open_logs(config: Config) -> None:
    """Open the logs, which Hypercorn does at the first line that it logs.

    The handlers' own log goes where the error log goes, unless the application has set it up.

    Raises:
        CannotServeError: A log file or a logging configuration cannot be used.
    """
    # First, as the worker does it: which logger it is depends on it.
    config.set_statsd_logger_class(StatsdLogger)
    try:
        theirs: logging.Logger | None = getattr(config.log, "error_logger", None)  # it opens them
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CannotServeError(f"cannot open the logs: {error}") from error
    ours = logging.getLogger("trioloop")
    if theirs is not None and not ours.hasHandlers():  # nobody has said where they go
        ours.handlers = theirs.handlers
        ours.setLevel(theirs.level)
