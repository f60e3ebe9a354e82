"""Which hosts and web sites may send requests, where there is no authentication."""

from collections.abc import Iterable
from functools import lru_cache

from multiarm.domain.errors import ForbiddenOrigin

ADD_IT = "to let one through, add its name to the setting allowed_hosts (MULTIARM_ALLOWED_HOSTS)."


class Origins:
    """Anyone's web page could otherwise reach a server on loopback, by DNS rebinding or by a cross-site post."""

    def __init__(self, allowed_hosts: Iterable[str]) -> None:
        self._hosts = frozenset(host.lower().encode() for host in allowed_hosts)
        self._any_host = b"*" in self._hosts

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """ForbiddenOrigin where a request with these headers is none of ours."""
        named = self._any_host  # a second Host does not come this far, nor HTTP/1.1 without one
        for name, value in headers:
            if name == b"host":
                named = True
                if not self._is_ours(value):
                    raise ForbiddenOrigin(f"The Host header names no host of this server; {ADD_IT}")
            elif name == b"origin" and not self._is_ours(value.partition(b"://")[2]):
                raise ForbiddenOrigin(f"Requests from other web sites are refused; {ADD_IT}")
            elif name == b"sec-fetch-site" and value.strip().lower() == b"cross-site":
                raise ForbiddenOrigin(
                    "Requests across sites are refused; send it from a page of this server, or no page."
                )
        if not named:
            raise ForbiddenOrigin("A request has a Host header, which names a host of the setting allowed_hosts.")

    def _is_ours(self, authority: bytes) -> bool:
        return self._any_host or without_port(authority) in self._hosts


@lru_cache(maxsize=1024)
def without_port(authority: bytes) -> bytes:
    """`localhost` of `localhost:8080`, `[::1]` of `[::1]:8080`, in lower case."""
    authority = authority.strip()
    host, colon, port = authority.rpartition(b":")
    return (host if colon and (port.isdigit() or not port) else authority).lower()
