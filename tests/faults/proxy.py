"""A proxy in front of an S3 server that does to requests what networks and stores do, at given rates, from a seed.

500 503 429    answered so, without asking the server
drop           the server does what was asked, the answer never arrives
reset          half of the body, then a reset
cut            half of the body, then the end of the connection, under the full length
short          half of the body, under its own length: a whole answer to all appearance
flip           one bit of an object is another (a listing has no digest by which anybody could tell)
latency        everything as it should be, later

What happens to a request depends on the seed, on the request, and on how often it came; not on the order of threads.
"""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

ERRORS = {"500": (500, "InternalError"), "503": (503, "SlowDown"), "429": (429, "TooManyRequests")}
OF_BODIES = ("reset", "cut", "short", "flip")
LATENCY_S = 0.03
HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection"}


@dataclass
class Proxy:
    """rates: fault -> share of the requests it may befall. only: faults befall requests whose "METHOD /path?query" has this
    pattern. times: and each of them so often at most. done: faults so far. seen: requests so far, by method and path.
    """

    upstream: tuple[str, int]
    seed: int = 1
    rates: Mapping[str, float] = field(default_factory=dict)
    only: str = ""
    times: int = 1 << 30
    done: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, request: str) -> str:
        """The fault of this request, or ''."""
        name = re.sub(
            r"uploadId=[^&]*|(?<= )/[^/?]*", "", request
        )  # neither they nor buckets are called the same twice
        with self.lock:
            self.seen[name] += 1
            count = self.seen[name]
        if count > self.times or not re.search(self.only, unquote(request)):
            return ""
        at = random.Random(f"{self.seed}/{name}/{count}").random()
        for fault, rate in self.rates.items():
            if at < rate:
                return fault
            at -= rate
        return ""

    def note(self, fault: str) -> None:
        with self.lock:
            self.done[fault] += 1

    def becomes(self, rates: Mapping[str, float], only: str = "", times: int = 1 << 30) -> None:
        """Other weather from now on."""
        self.rates, self.only, self.times = rates, only, times
        self.done.clear()
        self.seen.clear()


@contextmanager
def proxy(upstream: tuple[str, int], seed: int = 1) -> Iterator[Proxy]:
    """A proxy on a port of its own, ended with the block."""
    state = Proxy(upstream, seed)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": state}))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"
    link: HTTPConnection | None = None

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def handle_any(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.draw(f"{self.command} {self.path}")
        if fault in ERRORS:
            status, code = ERRORS[fault]
            self.proxy.note(fault)
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>canary</Message></Error>".encode()
            self.answer(status, {}, b"" if self.command == "HEAD" else text, len(text))
            return
        if fault == "latency":
            self.proxy.note(fault)
            time.sleep(LATENCY_S)  # this is the fault
        status, headers, body = self.forward(data)
        if fault == "drop":
            self.proxy.note(fault)
            self.reset()
        elif fault in OF_BODIES and self.may_spoil(fault, status, body):
            self.proxy.note(fault)
            self.spoil(fault, status, headers, body)
        else:
            length = int(headers.get("Content-Length", len(body)))
            self.answer(status, headers, body, length)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def may_spoil(self, fault: str, status: int, body: bytes) -> bool:
        if fault == "flip" and "list-type=" in self.path:
            return False
        return self.command == "GET" and status in (200, 206) and len(body) > 1

    def spoil(self, fault: str, status: int, headers: dict[str, str], body: bytes) -> None:
        half = body[: len(body) // 2]
        if fault == "short":
            self.answer(status, headers, half, len(half))
        elif fault == "flip":
            self.answer(status, headers, half + bytes([body[len(half)] ^ 4]) + body[len(half) + 1 :], len(body))
        else:
            self.answer(status, headers, half, len(body))
            if fault == "reset":
                self.reset()
            self.close_connection = True

    def forward(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Ask the server, on a connection that is kept; once more where it had closed it."""
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
        for last in (False, True):
            fresh = self.link is None
            self.link = self.link or HTTPConnection(*self.proxy.upstream, timeout=30)
            try:
                self.link.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in headers.items():
                    self.link.putheader(name, value)
                self.link.endheaders(data)
                answer = self.link.getresponse()
                kept = {k: v for k, v in answer.getheaders() if k.lower() not in HOP}
                return answer.status, kept, answer.read()
            except (OSError, HTTPException):
                self.link.close()
                self.link = None
                if last or fresh:
                    raise
        raise AssertionError("returned or raised above")

    def answer(self, status: int, headers: dict[str, str], body: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        """End the connection with an RST."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def finish(self) -> None:
        with suppress(OSError):  # reset on purpose
            super().finish()
        if self.link is not None:
            self.link.close()

    def handle(self) -> None:
        with suppress(OSError):  # the client went, or was sent away
            super().handle()

    def log_message(self, *_: object) -> None:
        pass
