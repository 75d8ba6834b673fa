"""The page on which pairs are labelled: a small server on this machine, which needs no network."""

import errno
import json
import logging
import socketserver
import sys
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from dsd.data.manifest import ManifestError
from dsd.labels.session import Session, Side
from dsd.labels.store import LABELS

logger = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
PORTS = range(8765, 8785)

_PAGE = Path(__file__).parent / "page"
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_NAMES = ("127.0.0.1", "localhost")
_MAX_BODY = 4096
_MAX_SECONDS = 1e7
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LabelServer(ThreadingHTTPServer):
    """Serves one session on 127.0.0.1; `serve_forever()` works until it is interrupted.

    Args:
        session: whose pairs to show.
        port: where; by default the first free one of `PORTS`.

    Attributes:
        url: the address of the page.

    Raises:
        OSError: if the port, or all of `PORTS`, are taken.
    """

    daemon_threads = True

    def __init__(self, session: Session, port: int | None = None) -> None:
        self.session = session
        for candidate in PORTS if port is None else (port,):
            try:
                super().__init__((ADDRESS, candidate), _Handler)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                self.url = f"http://{ADDRESS}:{self.server_address[1]}/"
                return
        taken = f"The port {port} is" if port is not None else f"The ports {PORTS[0]} to {PORTS[-1]} are"
        raise OSError(f"{taken} taken by other programs. Choose another one with --port, or 0 for any.")

    def server_bind(self) -> None:
        """Bind without asking a name server for the machine's name, as the base class does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong in a connection, unless it is that the browser has gone."""
        if isinstance(sys.exc_info()[1], BrokenPipeError | ConnectionResetError):
            return
        logger.exception("A connection of %s ended in an error", client_address)


def serve(session: Session, port: int | None = None) -> None:
    """Show a session's pairs until Ctrl-C.

    Args:
        session: whose pairs.
        port: see `LabelServer`.

    Raises:
        OSError: if the port is taken.
    """
    with LabelServer(session, port) as server:
        logger.info(
            "%d pairs to label, as %s: open %s (Ctrl-C ends; every label is saved at once)",
            len(session.ids),
            session.labels.person,
            server.url,
        )
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.1)


class _Refused(Exception):
    """A request that is not answered as asked."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60.0  # seconds that an idle connection is kept
    disable_nagle_algorithm = True  # or a body waits 40 ms until the browser has acknowledged its headers

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, method: Any) -> None:
        try:
            self._check_sender()
            content, kind = method()
        except _Refused as error:
            self._fail(error.status, error)
        except LookupError as error:
            self._fail(HTTPStatus.NOT_FOUND, error)
        except ValueError as error:
            self._fail(HTTPStatus.BAD_REQUEST, error)
        except (OSError, ManifestError) as error:
            logger.warning("%s", error)
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, error)
        else:
            self._send(HTTPStatus.OK, content, kind)

    def _check_sender(self) -> None:
        """Refuse what other sites make a browser send: under their names for this address, or from their
        pages.
        """
        host = self.headers.get("Host", "")
        if host.rpartition(":")[0] not in _NAMES and host not in _NAMES:
            raise _Refused(HTTPStatus.FORBIDDEN, f"This page is at {ADDRESS} or localhost; got {host!r}.")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            raise _Refused(HTTPStatus.FORBIDDEN, f"Requests from other sites are refused; got {origin!r}.")

    def _get(self) -> tuple[bytes, str]:
        asked = urlsplit(self.path)
        if asked.path in _FILES:
            name, kind = _FILES[asked.path]
            return (_PAGE / name).read_bytes(), kind
        if asked.path == "/state":
            return self._json(self._session.state(_place(asked.query)))
        family, _, rest = asked.path.removeprefix("/").partition("/")
        pair_id, _, side = rest.partition("/")
        if family == "picture" and side in ("reference", "target"):
            return self._session.picture(pair_id, cast(Side, side)), "image/png"
        raise _Refused(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _post(self) -> tuple[bytes, str]:
        content = self._body()
        if self.path != "/label":
            raise _Refused(HTTPStatus.NOT_FOUND, "There is no such page.")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "A label is sent as application/json.")
        try:
            given = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, "The request is no JSON.") from error
        match given:
            case {"pair_id": str(pair_id), "label": str(label), "seconds": int() | float() as seconds}:
                if label not in LABELS:
                    raise _Refused(HTTPStatus.BAD_REQUEST, f"`label` is one of {', '.join(LABELS)}.")
                if isinstance(seconds, bool) or not 0 <= seconds <= _MAX_SECONDS:
                    raise _Refused(HTTPStatus.BAD_REQUEST, "`seconds` is a number from 0 on.")
                state = self._session.save(pair_id, label, round(float(seconds), 2))
                return self._json(state)
        raise _Refused(HTTPStatus.BAD_REQUEST, "A label has pair_id, label and seconds.")

    def _body(self) -> bytes:
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or int(size) > _MAX_BODY:
            self.close_connection = True  # the rest is not read
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A request has at most {_MAX_BODY} bytes.")
        return self.rfile.read(int(size))

    @property
    def _session(self) -> Session:
        return cast(LabelServer, self.server).session

    def _json(self, content: Any) -> tuple[bytes, str]:
        return json.dumps(content).encode(), "application/json"

    def _fail(self, status: HTTPStatus, error: Exception) -> None:
        content, kind = self._json({"error": str(error)})
        if self.command == "POST":
            self.close_connection = True
        self._send(status, content, kind)

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}
        # A picture never changes: the id of its pair depends on its pixels.
        headers["Cache-Control"] = "private, max-age=3600" if kind == "image/png" else "no-store"
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):  # the browser has gone on to the next pair
            self.wfile.write(content)

    def version_string(self) -> str:
        return "dsd"

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


def _place(query: str) -> int | None:
    (place,) = parse_qs(query).get("place", [""])
    if not place:
        return None
    if not place.isdecimal() or len(place) > 12:
        raise _Refused(HTTPStatus.BAD_REQUEST, f"`place` is a whole number; got {place[:20]!r}.")
    return int(place)
