"""Where a node listens: HOST and the first of its four consecutive ports."""

import ipaddress
import re
import socket
from dataclasses import dataclass

from mesh.effects import Channel
from mesh.errors import MeshError

PORT_BASE_MAX = 32_768 - len(Channel)
"""Largest base port. Linux hands out 32768 and up to outgoing connections; a dialler that redials a dead port in that
range can be given the very port it dials, connects to itself, and then holds the port against its owner."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z")
_WILDCARDS = frozenset({"*", "0.0.0.0", "::"})


class TransportRefused(MeshError):
    """The transport cannot do this; the message is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class Address:
    """`host` is an IPv4 or IPv6 literal without brackets, or a name; `base` is the first of four ports."""

    host: str
    base: int

    def endpoint(self, channel: Channel) -> str:
        """What libzmq calls the port of `channel`."""
        host = f"[{self.host}]" if self.is_v6 else self.host
        return f"tcp://{host}:{self.base + channel}"

    @property
    def is_v6(self) -> bool:
        return ":" in self.host

    @property
    def is_wildcard(self) -> bool:
        return self.host in _WILDCARDS

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost never counts: its meaning can change."""
        return self.is_literal and ipaddress.ip_address(self.host).is_loopback

    @property
    def is_literal(self) -> bool:
        return _is_literal(self.host)

    def resolved(self) -> "Address":
        """The same with a literal for the host, as binding needs one. May ask the system's resolver and wait for it."""
        if self.is_wildcard or self.is_literal:
            return self
        try:
            found = socket.getaddrinfo(self.host, self.base, family=socket.AF_INET, type=socket.SOCK_STREAM)
        except OSError as error:
            raise TransportRefused(f"{self.host!r} is not a name this machine can resolve: {error}.") from None
        return Address(str(found[0][4][0]), self.base)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.base}" if self.is_v6 else f"{self.host}:{self.base}"


def parse(text: str) -> Address:
    """HOST:PORT, [V6]:PORT or *:PORT. Raises TransportRefused.

    `localhost` becomes 127.0.0.1, and a version 4 address in version 6 clothes (::ffff:a.b.c.d) what it is.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > len("65535"):
        raise TransportRefused(f"{text!r} is not HOST:PORT.")
    base = int(port)
    if not 0 < base <= PORT_BASE_MAX:
        raise TransportRefused(
            f"Port {base} in {text!r} is not between 1 and {PORT_BASE_MAX}: above that lie the ports the system gives "
            f"to outgoing connections, and a node redialling there can connect to itself."
        )
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not _is_host(host, bracketed):
        raise TransportRefused(f"{host!r} in {text!r} is neither an address nor a host name.")
    return Address(_plain(host), base)


def _plain(host: str) -> str:
    if ":" in host:
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
        return host if mapped is None else str(mapped)
    return "127.0.0.1" if host == "localhost" else host


def _is_host(host: str, bracketed: bool) -> bool:
    if bracketed or ":" in host:
        try:
            return bracketed and ipaddress.ip_address(host).version == 6 and "%" not in host
        except ValueError:
            return False
    return host in _WILDCARDS or _is_literal(host) or (_NAME.match(host) is not None and not host[-1].isdigit())


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
