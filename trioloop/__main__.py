"""The command line, ``trioloop`` or ``python -m trioloop``.

The laws of this file:

* Options have Hypercorn's names, meanings and defaults. Only what was given is set: the command
  line wins over the configuration file, and the file over Hypercorn's defaults.
* A value that cannot be right is refused before anything is imported, with the value in the message
  and exit code 2. What only trying can show is found in ``_startup.py``, with exit code 1.
* Hypercorn is imported to serve, never for ``--help`` or to refuse an option.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import signal
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hypercorn.config import Config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments without the program's name; those of this process by default.

    Returns:
        The exit code: 0 after a drained shutdown, 1 when it could not serve (the reason is on
        stderr), 130 or 143 when SIGINT or SIGTERM ended it before it served.

    Raises:
        SystemExit: After ``--help`` and ``--version`` with code 0, for arguments that cannot be
            right with code 2.

    Source: the options are those of Hypercorn's own command line.
    """
    try:
        arguments = _parser().parse_args(argv)
        code: int = arguments.command(arguments)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return code


def _serve(arguments: argparse.Namespace) -> int:
    # A configuration of the form python:MODULE is looked for there, too.
    sys.path.insert(0, str(Path(arguments.app_dir).resolve()))

    from ._process import run
    from ._startup import CannotServeError

    try:
        config = _configuration(arguments.config)
    except CannotServeError as error:
        return error.report()
    for name, value in vars(arguments).items():
        if name.startswith(_SETTING):
            setattr(config, name.removeprefix(_SETTING), value)
    return run(_in_directory(arguments.application, arguments.app_dir), config)


def _demo(arguments: argparse.Namespace) -> int:
    from hypercorn.config import Config

    from . import _demo as demo
    from ._process import run

    def show(binds: Sequence[str]) -> None:
        sys.stdout.write(f"{demo.banner(binds[0])}\n")
        sys.stdout.flush()

    config = Config()
    config.bind = [arguments.bind]
    config.loglevel = "WARNING"  # the banner says where it listens
    return run(demo.app, config, on_listening=show)


def _configuration(path: str | None) -> Config:
    """Read the configuration from one of the places that Hypercorn's ``--config`` knows.

    Raises:
        CannotServeError: It cannot be read.
    """
    from hypercorn.config import Config

    from ._startup import CannotServeError

    if path is None:
        return Config()
    kind, _, rest = path.partition(":")
    # Hypercorn's annotations leave os.PathLike without its argument, which pyright minds.
    try:
        if kind == "python":
            return Config.from_object(rest)
        if kind == "file":
            return Config.from_pyfile(rest)  # pyright: ignore[reportUnknownMemberType]
        return Config.from_toml(path)  # pyright: ignore[reportUnknownMemberType]
    except Exception as error:  # a configuration in Python may raise anything
        cause = error.__context__ or error  # a missing module, before Hypercorn split its name
        raise CannotServeError(
            f"cannot read the configuration {path!r}: {type(cause).__name__}: {cause}; "
            "it takes a TOML file, file: and a Python file (name.py), or python: and a module"
        ) from error


def _in_directory(application: str, directory: str) -> str:
    """Put the directory before the module: Hypercorn looks for a module in its path's parent.

    Its own search begins in the working directory, where a namesake would win over ``--app-dir``.
    """
    if directory == os.curdir:
        return application
    before, mode, path = application.rpartition("asgi:")
    return f"{before}{mode}{Path(directory, path)}"


def _application(text: str) -> str:
    parts = text.split(":")
    most = 3 if parts[0] in ("asgi", "wsgi") else 2
    if not all(parts) or len(parts) > most:
        raise argparse.ArgumentTypeError(f"{text!r} is not module:attribute, such as main:app")
    return text


def _directory(text: str) -> str:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory")
    path = os.path.relpath(text)
    if ":" in path:
        raise argparse.ArgumentTypeError(f"{text!r} has a colon, where a module's path ends")
    return path


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not value >= 0:  # nan, too
        raise argparse.ArgumentTypeError(f"{text!r} is not 0 or more seconds")
    return value


def _whole(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not re.fullmatch("[0-9]+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {least} or more")
        return int(text)

    return whole


_TCP: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(%\w+)?\](?=:)|[^:\[\]/\s]*)(:(?P<port>[0-9]+))?")


def _tcp_address(text: str) -> str:
    """Check an address, which Hypercorn would take for another one where it is misspelt."""
    match = _TCP.fullmatch(text)
    if not text or match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HOST:PORT, such as 127.0.0.1:8000 or [::1]:8000"
        )
    if len(match["port"] or "") > 5 or int(match["port"] or 0) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} has a port above 65535, where ports end")
    if text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} names no host: 127.0.0.1:{text} does")
    return text


def _address(text: str) -> str:
    if text.startswith("unix:"):
        valid = text != "unix:"
    elif text.startswith("fd://"):
        valid = re.fullmatch("fd://[0-9]+", text) is not None
    else:
        return _tcp_address(text)
    if not valid:
        raise argparse.ArgumentTypeError(f"{text!r} is not unix:PATH or fd://NUMBER")
    return text


def _verify_mode(text: str) -> ssl.VerifyMode:
    try:
        return ssl.VerifyMode[text]
    except KeyError:
        known = ", ".join(mode.name for mode in ssl.VerifyMode)
        raise argparse.ArgumentTypeError(f"{text!r} is none of {known}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trioloop",
        description="Handlers of long-lived HTTP requests, on Trio.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help=_VERSION_HELP)
    commands = parser.add_subparsers(title="commands", required=True)
    _fill_serve(
        commands.add_parser(
            "serve",
            help="serve an ASGI application",
            description="Serve an ASGI application on Hypercorn's Trio worker. SIGTERM or Ctrl-C "
            "drains: the application is told, and requests in flight have --graceful-timeout "
            "seconds. A second signal ends the process at once.",
            allow_abbrev=False,
        )
    )
    _fill_demo(
        commands.add_parser(
            "demo",
            help="serve the demonstration",
            description="Serve the demonstration.",
            allow_abbrev=False,
        )
    )
    return parser


def _fill_serve(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_serve)
    parser.add_argument(
        "application", type=_application, metavar="module:app", help="the ASGI application"
    )
    parser.add_argument(
        "-c",
        "--config",
        metavar="PATH",
        help="Hypercorn's configuration: a TOML file, file:PATH of a Python file, or "
        "python:MODULE; options of the command line win over it",
    )
    parser.add_argument(
        "--app-dir",
        default=os.curdir,
        type=_directory,
        metavar="DIRECTORY",
        help="where to look for the module first (default: the working directory)",
    )
    parser.add_argument("--version", action=_Version, help=_VERSION_HELP)
    for add in (_fill_listening, _fill_processes, _fill_tls, _fill_logs):
        add(parser)


def _fill_demo(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_demo)
    parser.add_argument(
        "-b",
        "--bind",
        type=_tcp_address,
        default="127.0.0.1:8000",
        metavar="HOST:PORT",
        help="where to listen (default: %(default)s)",
    )
    _refuse_host_and_port(parser)


def _refuse_host_and_port(parser: argparse.ArgumentParser) -> None:
    """Name ``--bind`` to those who know the options of other servers."""

    def refused(address: str) -> Callable[[str], str]:
        def refuse(text: str) -> str:
            bind = address.format(f"[{text}]" if ":" in text else text)
            raise argparse.ArgumentTypeError(f"there is no such option; --bind {bind} does it")

        return refuse

    for flag, address in (("--host", "{}:8000"), ("--port", "127.0.0.1:{}")):
        parser.add_argument(
            flag, type=refused(address), default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )


def _fill_listening(parser: argparse.ArgumentParser) -> None:
    _refuse_host_and_port(parser)
    setting = _settings(parser, "connections")
    setting(
        "bind",
        "-b",
        "--bind",
        action="append",
        type=_address,
        metavar="ADDRESS",
        help="HOST:PORT, HOST, unix:PATH or fd://NUMBER; may be given more than once "
        "(default: 127.0.0.1:8000)",
    )
    setting(
        "backlog",
        "--backlog",
        type=_whole(0),
        metavar="NUMBER",
        help="connections that may wait to be accepted (default: 100)",
    )
    setting(
        "keep_alive_timeout",
        "--keep-alive",
        type=_seconds,
        metavar="SECONDS",
        help="how long a connection may be without a request (default: 5)",
    )
    setting(
        "graceful_timeout",
        "--graceful-timeout",
        type=_seconds,
        metavar="SECONDS",
        help="what requests in flight have left when the server goes down (default: 3)",
    )
    setting("root_path", "--root-path", metavar="PATH", help="ASGI's root_path")


def _fill_processes(parser: argparse.ArgumentParser) -> None:
    setting = _settings(parser, "processes")
    setting(
        "workers",
        "-w",
        "--workers",
        type=_whole(1),
        metavar="NUMBER",
        help="how many processes serve (default: 1)",
    )
    setting(
        "worker",
        "--worker",
        choices=("trioloop", "stock"),
        help="whose connections serve HTTP/1.1 and WebSocket: trioloop's (default), or those of "
        "the stock Hypercorn worker",
    )
    setting(
        "use_reloader",
        "--reload",
        action="store_true",
        help="start again when the code changes; run as Hypercorn runs it, with its stock worker",
    )
    setting(
        "pid_path", "-p", "--pid", metavar="PATH", help="a file to write the process's number to"
    )


def _fill_tls(parser: argparse.ArgumentParser) -> None:
    setting = _settings(parser, "TLS")
    setting("certfile", "--certfile", metavar="PATH", help="the certificate, in PEM")
    setting("keyfile", "--keyfile", metavar="PATH", help="its key, in PEM")
    setting(
        "keyfile_password", "--keyfile-password", metavar="PASSWORD", help="for an encrypted key"
    )
    setting("ca_certs", "--ca-certs", metavar="PATH", help="who signs the clients' certificates")
    setting(
        "verify_mode",
        "--verify-mode",
        type=_verify_mode,
        metavar="MODE",
        help="CERT_NONE (default), CERT_OPTIONAL or CERT_REQUIRED: whether clients need one",
    )


def _fill_logs(parser: argparse.ArgumentParser) -> None:
    setting = _settings(parser, "logs")
    setting(
        "accesslog",
        "--access-logfile",
        "--access-log",
        metavar="PATH",
        help="where to log requests, - for stdout (default: nowhere)",
    )
    setting(
        "access_log_format",
        "--access-logformat",
        metavar="FORMAT",
        help="how to log them, as Hypercorn's documentation says",
    )
    setting(
        "errorlog",
        "--error-logfile",
        metavar="PATH",
        help="where to log the rest, - for stderr (default: stderr)",
    )
    setting(
        "loglevel",
        "--log-level",
        type=str.lower,
        choices=("debug", "info", "warning", "error", "critical"),
        help="the least level that is logged (default: info)",
    )


# Arguments of this name are attributes of the configuration.
_SETTING: Final = "config."


def _settings(parser: argparse.ArgumentParser, title: str) -> Callable[..., None]:
    group = parser.add_argument_group(title)

    def setting(name: str, *flags: str, **options: Any) -> None:
        # Suppressed: what is not given leaves no trace, so the configuration keeps its own value.
        group.add_argument(*flags, dest=_SETTING + name, default=argparse.SUPPRESS, **options)

    return setting


_VERSION_HELP: Final = "show the versions that a report of a fault needs"


class _Version(argparse.Action):
    """Show the versions; argparse's own action wants them looked up for every command."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        ours, hypercorn, trio = map(_version, ("trioloop", "hypercorn", "trio"))
        python = platform.python_version()
        sys.stdout.write(f"trioloop {ours} (Hypercorn {hypercorn}, Trio {trio}, Python {python})\n")
        parser.exit()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    raise SystemExit(main())
