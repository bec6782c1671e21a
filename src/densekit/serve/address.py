"""The address that a server listens on. No torch here: a port that is taken is reported before anything is loaded."""

import errno
import socket
from contextlib import suppress

from densekit.errors import BadData, InvalidInput

_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""By the address that means all of this machine's, one that a browser here can open."""
_UNPRIVILEGED = 1024
_TRIED = 100  # ports after one that is taken


def bound(host: str, port: int) -> socket.socket:
    """A socket with that address; nobody can connect before `listen`.

    Raises:
        InvalidInput: a host that is no address of this machine.
        BadData: a port that is taken; the message names one that is free.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, OverflowError, UnicodeError) as error:
        raise InvalidInput(f"--host {host} is no address of this machine ({error}); try 127.0.0.1") from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _no_port(host, port, error) from error
    return listener


def listen(listener: socket.socket) -> None:
    """Accept connections. Raises BadData where another process has come to listen there since the socket was bound."""
    host, port = listener.getsockname()[:2]
    try:
        listener.listen()
    except OSError as error:
        raise _no_port(host, port, error) from error


def url(host: str, port: int) -> str:
    """http://HOST:PORT."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def to_open(host: str, port: int) -> str:
    """The page's URL for a browser on this machine."""
    return f"{url(_HERE.get(host, host), port)}/"


def _no_port(host: str, port: int, error: OSError) -> BadData:
    """The error of an address that cannot be had, with one that can."""
    if error.errno == errno.EADDRINUSE:
        problem = f"port {port} of {host} is in use"
    elif error.errno == errno.EACCES:
        problem = f"port {port} of {host} needs more rights ({error.strerror})"
    else:
        return BadData(f"{host}, port {port} cannot be had ({error.strerror}); check --host")
    free = _next_free(host, port)
    fix = "pass --port 0 for any free one" if free is None else f"{free} is free: pass --port {free}"
    return BadData(f"{problem}; {fix}")


def _next_free(host: str, port: int) -> int | None:
    """The first of the following ports that nobody listens on."""
    first = max(port + 1, _UNPRIVILEGED)
    for candidate in range(first, min(first + _TRIED, 65536)):
        family, kind, protocol, _, address = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
            return candidate
    return None
