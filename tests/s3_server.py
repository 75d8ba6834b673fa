"""An S3 server on 127.0.0.1 (moto's), behind a proxy that fails at random but seeded moments."""

import contextlib
import http.client
import random
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import fsspec
from moto.server import ThreadedMotoServer

ACCESS_KEY, SECRET_KEY = "AKIATESTTESTTESTTEST", "a-very-secret-key"
_ERROR = "<Error><Code>{0}</Code><Message>{1}</Message></Error>"
ANSWERS = {
    "500": (500, _ERROR.format("InternalError", "We encountered an internal error. Please try again.")),
    "503": (503, _ERROR.format("SlowDown", "Please reduce your request rate.")),
    "denied": (403, _ERROR.format("AccessDenied", "Access Denied")),
}
FAULTS = ("500", "503", "slow", "dropped before", "dropped after", "dropped in the body")


class FaultyS3:
    """The proxy and the server behind it.

    Attributes:
        rate: the share of requests that fail, each in one of the ways of `faults`.
        faults: which ways.
        lag_s: how long a new object is missing in listings.
        only: what requests (method, path and query) may fail; a regular expression.
        times: how many may fail; None for any number.
        seen: every request that came, as (method, path, fault or None).
    """

    def __init__(self, seed=0):
        self.rate, self.faults, self.lag_s, self.only, self.times = 0.0, FAULTS, 0.0, "", None
        self.seen, self.put_at, self.ignore_conditions = [], {}, False
        self._random, self._guard = random.Random(seed), threading.Lock()
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self._behind = self._moto.get_host_and_port()
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._proxy.daemon_threads = True
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._proxy.server_address[1]}"

    def stop(self):
        self._proxy.shutdown()
        self._proxy.server_close()
        self._moto.stop()
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # they know this server's address

    def calm(self):
        """No more faults; what was seen is forgotten."""
        usual = {"rate": 0.0, "faults": FAULTS, "lag_s": 0.0, "only": "", "times": None}
        self.__dict__.update(usual, ignore_conditions=False, seen=[])

    def environment(self):
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip

    def fault(self, request):
        with self._guard:
            hit = self._random.random() < self.rate and re.search(self.only, request)
            if not hit or self.times == 0:
                return None
            self.times = None if self.times is None else self.times - 1
            return self._random.choice(self.faults)

    def _handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or each answer waits 40 ms for a delayed ACK

            def log_message(self, *args):
                pass

            def body(self):
                """What was sent; None where the client left before the end: S3 stores nothing of that."""
                try:
                    return self.whole_body()
                except (ConnectionError, ValueError):
                    return None

            def whole_body(self):
                if self.headers.get("Transfer-Encoding", "") == "chunked":
                    parts = []
                    while length := int(self.rfile.readline().split(b";")[0], 16):
                        parts.append(self.exactly(length))
                        self.rfile.readline()
                    self.rfile.readline()
                    return b"".join(parts)
                return self.exactly(int(self.headers.get("Content-Length", 0)))

            def exactly(self, length):
                content = self.rfile.read(length)
                if len(content) < length:
                    raise ConnectionResetError(f"{len(content)} of {length} bytes came")
                return content

            def answer(self, status, headers, content, cut=None):
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                length = dict((k.lower(), v) for k, v in headers).get("content-length")
                self.send_header(
                    "Content-Length", length if self.command == "HEAD" and length else len(content)
                )
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content if cut is None else content[:cut])
                self.wfile.flush()

            def drop(self):
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(2)

            def handle_any(self):
                if self.headers.get("Expect", "") == "100-continue":
                    self.send_response_only(100)
                    self.end_headers()
                fault = server.fault(f"{self.command} {self.path}")
                server.seen.append((self.command, self.path, fault))
                if fault == "dropped in the request":
                    self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
                    return self.drop()
                body = self.body()
                if body is None:
                    return self.drop()
                if fault in ANSWERS:
                    status, content = ANSWERS[fault]
                    return self.answer(status, [("Content-Type", "application/xml")], content.encode())
                if fault == "dropped before":
                    return self.drop()
                if fault == "slow":
                    time.sleep(0.3)
                if fault == "stall":
                    time.sleep(3)
                headers = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
                if server.ignore_conditions:
                    headers = {k: v for k, v in headers.items() if not k.lower().startswith("if-")}
                headers["Content-Length"] = str(len(body))
                connection = http.client.HTTPConnection(*server._behind)
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                content = response.read()
                found = response.getheaders()
                connection.close()
                key = unquote(urlsplit(self.path).path)
                if self.command in ("PUT", "POST") and response.status < 300:
                    server.put_at.setdefault(key, time.monotonic())
                if self.command == "DELETE":
                    server.put_at.pop(key, None)
                if server.lag_s and self.command == "GET" and "list-type" in self.path:
                    content = self.lagged(key.rstrip("/"), content)
                if fault == "dropped after":
                    return self.drop()
                cut = len(content) // 2 if fault == "dropped in the body" else None
                self.answer(response.status, found, content, cut)
                if cut is not None:
                    self.drop()

            def lagged(self, bucket, content):
                def kept(match):
                    key = re.search(r"<Key>(.*?)</Key>", match[0], re.DOTALL)[1]
                    new = time.monotonic() - server.put_at.get(f"{bucket}/{unquote(key)}", 0) < server.lag_s
                    return "" if new else match[0]

                return re.sub(r"<Contents>.*?</Contents>", kept, content.decode(), flags=re.DOTALL).encode()

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        return Handler
