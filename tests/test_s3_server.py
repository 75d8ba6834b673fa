"""The server that the tests of storage run against must itself keep S3's promises."""

import socket
from urllib.parse import urlsplit

import fsspec
import pytest

from tests.s3_server import FaultyS3
from tests.test_remote_runs import prepared

HEADS = {
    "of a stated length": b"Content-Length: 10\r\n\r\n",
    "in chunks": b"Transfer-Encoding: chunked\r\n\r\na\r\n",
}


@pytest.fixture(scope="module")
def server():
    server = FaultyS3()
    yield server
    server.stop()


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("sent", [b"", b"0123"], ids=["nothing", "a part"])
def test_a_body_cut_short_is_not_stored(server, tmp_path, monkeypatch, head, sent):
    url = prepared(server, tmp_path / "cache", monkeypatch)
    key = urlsplit(url).netloc + "/cut"
    with socket.create_connection(urlsplit(server.url).netloc.split(":")) as client:
        client.sendall(f"PUT /{key} HTTP/1.1\r\nHost: localhost\r\n".encode() + head + sent)
        client.shutdown(socket.SHUT_WR)  # as a killed process leaves it
        assert client.recv(100) == b""
    assert not fsspec.filesystem("s3").exists(key)
