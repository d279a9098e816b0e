"""Somebody to notify, on loopback: a web server and a mail server that keep what they are sent."""

import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Web(BaseHTTPRequestHandler):
    server: "Web"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.got.append((self.path, body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


class Web(ThreadingHTTPServer):
    """Keeps (path, body) in `got`; answers with `statuses` one by one, then with 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Web)
        self.got: list[tuple[str, Any]] = []
        self.statuses: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Mail(socketserver.StreamRequestHandler):
    server: "Mail"

    def handle(self) -> None:
        self._say("220 here")
        while raw := self.rfile.readline():
            word = raw.decode().strip().upper()[:4]
            if word == "EHLO":
                offered = ["STARTTLS"] if self.server.context and not self._private() else []
                for line in ["here", *offered]:
                    self._say(f"250-{line}")
                self._say("250 AUTH PLAIN")
                continue
            if word == "STAR":
                self._say("220 go on")
                self.request = self.connection = self.server.context.wrap_socket(self.connection, server_side=True)
                self.setup()
                continue
            if word == "AUTH":
                self.server.logins.append((raw.decode().split()[2], self._private()))
                self._say("235 welcome")
                continue
            if word == "DATA":
                self._say("354 go on")
                lines = list(iter(self.rfile.readline, b".\r\n"))
                self.server.got.append(b"".join(lines).decode())
            elif word in ("MAIL", "RCPT"):
                self.server.envelopes.append(raw.decode().strip())
            if word == "QUIT":
                self._say("221 bye")
                return
            self._say("250 well")

    def _private(self) -> bool:
        return isinstance(self.connection, ssl.SSLSocket)

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class Mail(socketserver.ThreadingTCPServer):
    """Keeps messages in `got`, envelopes in `envelopes`, logins and whether they were private in `logins`.

    Offers TLS where it has a certificate, with its key; `at_once`: it begins with it.
    """

    daemon_threads = True

    def __init__(self, certificate: tuple[Path, Path] | None = None, *, at_once: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Mail)
        self.got: list[str] = []
        self.envelopes: list[str] = []
        self.logins: list[tuple[str, bool]] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
        if self.context and certificate:
            self.context.load_cert_chain(*certificate)
        if self.context and at_once:
            self.socket = self.context.wrap_socket(self.socket, server_side=True)
        self.scheme = "smtps" if at_once else "smtp"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that does not trust this one."""


@contextmanager
def receiving(server: Any) -> Iterator[Any]:
    """Yield a running server."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)
