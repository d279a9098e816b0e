"""A stateful stand-in for the Kubeflow Pipelines API server, for contract tests; it runs nothing and is no cluster.

Each request is held against the API's own description, each pipeline against the real protobuf messages; experiments,
pipelines, versions, runs and recurring runs are kept in memory. Its own answers are held against the description too.
"""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from kfp_contract.description import Description, Misfit
from kfp_contract.state import Refusal, State


class Handler(BaseHTTPRequestHandler):
    """One request: known caller, fits the description, does what the operation says, answers as described."""

    server: "Server"

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, answer = 200, self._answered(raw)
        except Refusal as refusal:
            status, answer = refusal.status, {"code": refusal.code, "message": str(refusal), "details": []}
        except (Misfit, UnicodeDecodeError, json.JSONDecodeError) as misfit:
            status, answer = 400, {"code": 3, "message": str(misfit), "details": []}
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = _serve  # noqa: N815  the names that the base class looks for

    def _answered(self, raw: bytes) -> Any:
        state, parts = self.server.state, urlsplit(self.path)
        state.check_caller(self.headers.get("Authorization"))
        operation, places = self.server.description.operation(self.command, parts.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.server.description.check_query(operation, query)
        name = operation["operationId"]
        if any(each["in"] == "formData" for each in operation.get("parameters", [])):
            body = _uploaded(self.headers, raw)
        else:
            body = json.loads(raw) if raw else None
            self.server.description.check_body(operation, body)
        self.server.requests.append((self.command, self.path, name, body))
        if name in self.server.breaks:
            raise Refusal(self.server.breaks[name], "told to")
        answer = state.do(name, {unquote(key): unquote(value) for key, value in places.items()}, query, body)
        self.server.description.check_answer(operation, answer)
        return answer

    def log_message(self, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """The API on a free port of loopback; `requests` are those that were well-formed, in order.

    Attributes:
        breaks: by operation: a status to answer with instead of doing it.
    """

    daemon_threads = True

    def __init__(self, description: Path, **state: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.description, self.state = Description(description), State(**state)
        self.requests: list[tuple[str, str, str, Any]] = []
        self.breaks: dict[str, int] = {}
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def changes(self) -> list[str]:
        """Return the operations asked for so far that were no mere look."""
        return [name for method, _, name, _ in self.requests if method != "GET"]


@contextmanager
def serving(description: Path, *, certificate: tuple[Path, Path] | None = None, **state: Any) -> Iterator[Server]:
    """Yield a running server; over TLS where there is a certificate with its key."""
    with Server(description, **state) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket, server.scheme = context.wrap_socket(server.socket, server_side=True), "https"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)


def _uploaded(headers: Message, raw: bytes) -> list[Any]:
    """Return the YAML documents of an uploaded package."""
    message = BytesParser().parsebytes(f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + raw)
    for part in message.get_payload() if message.is_multipart() else []:
        if part.get_param("name", header="content-disposition") == "uploadfile":
            return list(yaml.safe_load_all(part.get_payload(decode=True)))
    raise Misfit("no uploadfile in the request")
