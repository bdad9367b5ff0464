"""The internet's servers besides DNS: HTTP that tells who asked, and UDP that echoes.

GET  /             `client ADDRESS`, the address that the server saw, and what was asked for
GET  /bytes/N      N bytes; with ?rate=R no more than R bytes a second
GET  /stream/NAME  bytes without end, at most ?rate=R a second, until /stop/NAME is fetched, which
                   says how many there were, and their SHA-256
GET  /v2/...       images of a folder, as a registry does (see ../registry.py)
POST, PUT          the number of bytes received and their SHA-256
UDP port 7         every datagram comes back as it came
UDP port 1007      every datagram is answered by the client's address and port
"""

import hashlib
import http.server
import random
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

_BLOCK = bytes(range(256)) * 256


class Stream:
    """What is sent until someone says stop."""

    def __init__(self) -> None:
        self.sent = 0
        self.over = threading.Event()
        self._digest = hashlib.sha256()
        self._stopping = threading.Event()

    def blocks(self) -> Iterator[bytes]:
        """Random bytes, so that one lost or repeated would be seen."""
        while not self._stopping.is_set():
            block = random.randbytes(8192)
            self._digest.update(block)
            self.sent += len(block)
            yield block

    def stop(self) -> str:
        """End it; say what was sent in all."""
        self._stopping.set()
        self.over.wait(60)
        return f"sent {self.sent}\nsha256 {self._digest.hexdigest()}\n"


_streams: dict[str, Stream] = {}


_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry = Path()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        rate = float(parse_qs(url.query).get("rate", ["inf"])[0])
        if url.path.startswith("/bytes/"):
            self._send_bytes(int(url.path.removeprefix("/bytes/")), rate)
        elif url.path.startswith("/stream/"):
            self._stream(url.path.removeprefix("/stream/"), rate)
        elif url.path.startswith("/v2/"):
            self._image(url.path.removeprefix("/v2/"))
        elif url.path.startswith("/stop/"):
            self._reply(_streams[url.path.removeprefix("/stop/")].stop())
        else:
            self._reply(f"client {self._client()}\npath {self.path}\nhost {self.headers['Host']}\n")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        left = length = int(self.headers["Content-Length"])
        digest = hashlib.sha256()
        while left:
            block = self.rfile.read(min(left, len(_BLOCK)))
            if not block:
                return
            digest.update(block)
            left -= len(block)
        self._reply(f"client {self._client()}\nreceived {length}\nsha256 {digest.hexdigest()}\n")

    do_PUT = do_POST

    def _client(self) -> str:
        # The sockets take both families: ::ffff:192.0.2.11 is an IPv4 client.
        return str(self.client_address[0]).removeprefix("::ffff:")

    def _reply(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _image(self, path: str) -> None:
        file = self.registry / path
        found = file.is_file() and file.resolve().is_relative_to(self.registry)
        body = file.read_bytes() if found else b""
        self.send_response(200 if found or not path else 404)
        kind = _MANIFEST if "/manifests/" in path else "application/octet-stream"
        self.send_header("Content-Type", kind)
        if found:
            self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(body).hexdigest()}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, name: str, rate: float) -> None:
        stream = _streams[name] = Stream()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        began = time.monotonic()
        try:
            for block in stream.blocks():
                self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
                time.sleep(max(0.0, began + stream.sent / rate - time.monotonic()))
            self.wfile.write(b"0\r\n\r\n")
        finally:
            stream.over.set()

    def _send_bytes(self, count: int, rate: float) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(count))
        self.end_headers()
        # Whole patterns in each block, so that N bytes are the same N bytes at any rate.
        block = _BLOCK if rate == float("inf") else _BLOCK[: max(1, int(rate / 20) // 256) * 256]
        began, sent = time.monotonic(), 0
        while sent < count and self.command != "HEAD":
            sent += self.wfile.write(block[: count - sent])
            time.sleep(max(0.0, began + sent / rate - time.monotonic()))


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 1024

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)  # without its look-up of the host's name


def _answer_datagrams(address: str, port: int, *, echo: bool) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        # Bound to one address, so that the answer comes from the address that was asked.
        sock.bind((address, port))
        while True:
            data, client = sock.recvfrom(65535)
            sock.sendto(data if echo else f"{client[0]} {client[1]}".encode(), client)


def main() -> None:
    """Serve HTTP on every address, a registry of the folder given first, and datagrams on the
    addresses given after it.
    """
    Handler.registry = Path(sys.argv[1]).resolve()
    for address in sys.argv[2:]:
        for port, echo in ((7, True), (1007, False)):
            threading.Thread(
                target=_answer_datagrams, args=(address, port), kwargs={"echo": echo}, daemon=True
            ).start()
    Server(("::", 80), Handler).serve_forever()


if __name__ == "__main__":
    main()
