"""An actor that serves metrics by HTTP on loopback, to Prometheus: GET /metrics alone."""

from __future__ import annotations

import logging
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from supervisor import GenServer
from tuncer.node import openmetrics
from tuncer.node.measuring import measured

log = logging.getLogger("tuncer")

_PATIENCE = 10.0  # seconds that a client may take for its request


class MetricsServer(GenServer):
    """Serves until it is stopped. Its threads read; they change nothing."""

    def init(self, host: str, port: int) -> None:
        """Listen.

        Args:
            host: of loopback.
            port: 0: the kernel chooses one.

        Raises:
            OSError: EADDRINUSE, and so on.
        """
        self._server = _Server((host, port), _Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def handle_call(self, request: Any, sender: Any) -> int:
        """Reply with the port, whatever is asked."""
        del request, sender
        return self.port

    def terminate(self, reason: object) -> None:
        """Listen no longer."""
        del reason
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log in a line what a client has broken off."""
        del request
        log.info("metrics: a request of %s has failed", client_address)


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE
    server_version = "tuncer"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer /metrics."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in {"127.0.0.1", "localhost", "[::1]"}:
            # A page in a browser could have its own name point here (DNS rebinding).
            self.send_error(403, "this is served to loopback alone")
            return
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "there is /metrics alone")
            return
        data = openmetrics.text(measured()).encode()
        self.send_response(200)
        self.send_header("Content-Type", openmetrics.CONTENT_TYPE)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base's word
        """Log requests for whoever asks for so much."""
        log.debug("metrics: " + format, *arguments)  # noqa: G003 - the base's pattern
