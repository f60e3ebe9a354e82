"""What the head of a request says, and what makes it none that HTTP/1.1 allows."""

import re

import httptools

from multiarm.http.answers import Answer, Header
from multiarm.http.problems import answer

CHUNKED = -1  # the length of a body that says itself where it ends

VERSIONS = ("1.0", "1.1")
AUTHORITY = re.compile(rb"[0-9A-Za-z!$&'()*+,;=\-._~:\[\]@%]*")  # what may stand in one (RFC 3986, 3.2)
CODINGS: tuple[list[bytes], ...] = ([], [b"chunked"])  # of a body on its way


class Head:
    """A request's method, target and headers, names in lower case. body_length: in bytes, or CHUNKED."""

    __slots__ = ("body_length", "codings", "expects", "headers", "host", "hosts", "method", "target", "version")

    def __init__(self, method: bytes, target: bytes, headers: list[Header], version: str) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.version = version
        self.host = b""
        self.hosts = 0
        self.codings: list[bytes] = []
        self.body_length = 0
        self.expects = False
        for name, value in headers:
            if name == b"host":
                self.host = value
                self.hosts += 1
            elif name == b"content-length":
                self.body_length = int(value)
            elif name == b"transfer-encoding":
                self.codings.append(value.strip().lower())
                self.body_length = CHUNKED
            elif name == b"expect":
                self.expects = True

    def objection(self) -> Answer | None:
        """The refusal of a request that the parser lets through and HTTP does not."""
        if self.version not in VERSIONS:
            return answer(505, "http-version-not-supported", "HTTP version not supported", "Send HTTP/1.1.")
        if self.method == b"CONNECT":
            return answer(501, "not-implemented", "Not implemented", "This server is no proxy.")
        if self.codings not in CODINGS:
            return malformed("The only Transfer-Encoding here is `chunked`.")
        if self.codings and self.version == "1.0":
            return malformed("HTTP/1.0 has no Transfer-Encoding; send Content-Length.")
        if self.hosts > 1 or (self.hosts == 0 and self.version == "1.1") or not AUTHORITY.fullmatch(self.host):
            return malformed("A request has one Host header, which is a name or an address.")
        return None

    def to_origin_form(self) -> Answer | None:
        """`GET http://host/path` names its host in the target; then that counts, not the header (RFC 9112, 3.2.2).

        Returns the refusal of a target that is neither.
        """
        if self.target.startswith(b"/") or self.target == b"*":
            return None
        try:
            url = httptools.parse_url(self.target)
        except httptools.HttpParserInvalidURLError:
            return malformed("The target is neither a path nor a URL.")
        if not url.host:
            return malformed("The target names no host.")
        host = b"[%b]" % url.host if b":" in url.host else url.host
        if url.port is not None:
            host = b"%b:%d" % (host, url.port)
        self.headers[:] = [header for header in self.headers if header[0] != b"host"]
        self.headers.append((b"host", host))
        self.target = (url.path or b"/") + (b"" if url.query is None else b"?" + url.query)
        return None


def malformed(reason: object) -> Answer:
    return answer(400, "malformed-request", "Malformed request", f"This is not HTTP/1.1: {reason}")
