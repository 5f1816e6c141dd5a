"""A proxy that breaks what passes through it, exactly as it is told to."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from radosgw import Radosgw
from tls import Authority

KINDS = {
    "500": "answers 500 and passes nothing on",
    "drop": "hangs up before it passes anything on",
    "lose": "passes the request on, and hangs up instead of handing back the answer",
    "half": "hands back half of the body, and hangs up",
    "flip": "passes the request on with one bit of the body changed",
}


@dataclass
class Fault:
    """What shall happen to the next requests of one sort."""

    kind: str  # one of KINDS
    wanted: Callable[[str, str], bool]  # of method and path
    left: int = 1  # how many times


@dataclass
class Faulty:
    """What is running, and what it shall break."""

    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)  # method and path of everything that came by
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    def next(self, kind: str, method: str, holding: str = "", *, times: int = 1) -> None:
        """Break the next requests of a method whose path holds a word."""
        if kind not in KINDS:
            raise ValueError(f"a fault is one of {', '.join(KINDS)}, got {kind}")
        self.faults.append(Fault(kind, lambda m, path: m == method and holding in path, times))

    def clear(self) -> None:
        """Break nothing any more, and forget what was seen."""
        self.faults.clear()
        self.seen.clear()

    def due(self, method: str, path: str) -> str:
        """What shall happen to a request, "" for nothing."""
        with self._lock:
            self.seen.append((method, path))
            for fault in self.faults:
                if fault.left and fault.wanted(method, path):
                    fault.left -= 1
                    return fault.kind
        return ""


def _handler(control: Faulty, behind: Radosgw) -> type[BaseHTTPRequestHandler]:
    """What happens to each request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            kind = control.due(self.command, self.path)
            if self.headers.get("Expect"):
                self.send_response_only(100)
                self.end_headers()
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if kind == "flip" and body:
                body = bytes([body[0] ^ 1]) + body[1:]
            sorry = 500, [], b"<Error><Code>InternalError</Code></Error>"
            status, headers, content = sorry if kind in ("500", "drop") else self._forward(body)
            if kind not in ("drop", "lose"):
                self._answer(status, headers, content, len(content) // 2 if kind == "half" else len(content))
            if kind in ("drop", "lose", "half"):
                self._hang_up()

        def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            onward = HTTPSConnection(
                "127.0.0.1", behind.port, timeout=30, context=ssl.create_default_context(cafile=behind.ca)
            )
            onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("expect", "connection"):
                    onward.putheader(name, value)
            onward.endheaders(body or None)
            answer = onward.getresponse()
            found = answer.status, answer.getheaders(), answer.read()
            onward.close()
            return found

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, shown: int) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            if not any(name.lower() == "content-length" for name, _ in headers):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[:shown])

        def _hang_up(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *words: object) -> None:
            return

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any  # noqa: N815

    return Handler


@contextlib.contextmanager
def before(behind: Radosgw, authority: Authority) -> Iterator[Faulty]:
    """The proxy, in front of a server."""
    control = Faulty()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(control, behind))
    server.daemon_threads = True
    certificate = authority.issue("faulty")
    speaking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    speaking.load_cert_chain(certificate.path, certificate.key)
    server.socket = speaking.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    control.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield control
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
