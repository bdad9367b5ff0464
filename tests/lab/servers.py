"""Servers for lab nodes: HTTP and TCP/UDP echo, on every address of the node, until killed.

HTTP: `GET /peer` answers the client's address and port as the server sees them; `GET /bytes/N`
answers N bytes; `POST /sink` answers how many bytes came and their SHA-256.
"""

from __future__ import annotations

import hashlib
import http.server
import socket
import socketserver
import threading

from tests.lab.topology import ECHO_PORT, HTTP_PORT


def pattern(size: int) -> bytes:
    """`size` bytes that a shifted or swapped packet would change."""
    block = bytes(range(251))
    return (block * (size // len(block) + 1))[:size]


class _Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        kind, _, argument = self.path.strip("/").partition("/")
        if kind == "bytes":
            self._answer(pattern(int(argument)))
        elif kind == "peer":
            self._answer("{} {}".format(*self.client_address).encode())
        else:
            self._answer(b"ok")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing, so that the tests' output stays readable."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _TcpEcho(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


def _udp_echo() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", ECHO_PORT))
        while True:
            data, peer = server.recvfrom(65535)
            server.sendto(data, peer)


def main() -> None:
    threading.Thread(target=_udp_echo, daemon=True).start()
    echo = socketserver.ThreadingTCPServer(("", ECHO_PORT), _TcpEcho)
    threading.Thread(target=echo.serve_forever, daemon=True).start()
    _Server(("", HTTP_PORT), _Http).serve_forever()


if __name__ == "__main__":
    main()
