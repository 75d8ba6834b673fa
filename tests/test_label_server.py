"""The page's server, asked without a browser: what it gives, what it refuses, what it writes."""

import json
import socket
import threading
import urllib.error
import urllib.request
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import dsd
from dsd.data.writer import TableWriter
from dsd.labels import LabelFile
from dsd.labels.server import LabelServer, _Handler
from dsd.labels.session import Session
from tests.cheap_world import make_run


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", count=4, curator=None)  # 48 pairs


@pytest.fixture
def server(run):
    with LabelServer(Session(run, "ann", run.pairs.ids()), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, content=None, **headers):
    data = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
    kind = {} if data is None else {"Content-Type": "application/json"}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(server.url.rstrip("/") + path, data, {**kind, **names})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_no_answer_waits_until_its_headers_are_acknowledged(server, monkeypatch):
    seen, real = [], _Handler.send_response

    def send_response(handler, *given):
        seen.append(handler.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        real(handler, *given)

    monkeypatch.setattr(_Handler, "send_response", send_response)
    assert ask(server, "/state")[0] == 200
    assert len(seen) == 1
    assert seen[0]


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/icon.svg", "/state"])
def test_nothing_may_be_loaded_from_elsewhere(server, path):
    status, content, headers = ask(server, path)
    assert status == 200
    assert headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert b"//" not in content.replace(b"http://www.w3.org/2000/svg", b"").replace(b"\n// ", b"").replace(
        b"; // ", b""
    )


def test_pictures_are_the_pairs_own(server, run):
    pair_id = run.pairs.ids()[5]
    for side in ("reference", "target"):
        status, content, headers = ask(server, f"/picture/{pair_id}/{side}")
        assert (status, headers["Content-Type"]) == (200, "image/png")
        with Image.open(BytesIO(content)) as image:
            assert np.array_equal(image, getattr(run.pairs[pair_id], side))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/state?place=48", 404), ("/state?place=-1", 400), ("/state?place=x", 400),
        ("/state?place=1&place=2", 400), ("/picture/none/target", 404), ("/picture/../../pairs/target", 404),
        ("/../server.py", 404), ("/page.html", 404), ("/labels/ann.jsonl", 404),
    ],
)  # fmt: skip
def test_other_pages_are_not_there(server, path, status):
    assert ask(server, path)[0] == status


def test_wrong_labels_are_refused_and_nothing_is_written(server, run):
    good = {"pair_id": run.pairs.ids()[0], "label": "same", "seconds": 1.5}
    wrong = [
        b"", b"{", b"\xff", b"[" * 3000, b"[]", {}, {**good, "label": "maybe"}, {**good, "label": 1},
        {**good, "seconds": -1}, {**good, "seconds": "1"}, {**good, "seconds": True},
        {**good, "seconds": None},
        json.dumps(good).replace("1.5", "NaN").encode(), json.dumps(good).replace("1.5", "1e999").encode(),
        json.dumps(good).replace("1.5", "9" * 3500).encode(),
    ]  # fmt: skip
    for content in wrong:
        assert ask(server, "/label", content)[0] == 400, content
    assert ask(server, "/label", {**good, "pair_id": "0" * 20})[0] == 404
    assert ask(server, "/label", {**good, "pair_id": "\ud800"})[0] == 404
    assert ask(server, "/label", b" " * 5000)[0] == 413
    assert ask(server, "/state", good)[0] == 404
    assert not (run.path / "labels").exists()
    assert ask(server, "/label", good)[0] == 200
    assert len(LabelFile(run, "ann").read()) == 1


def test_other_sites_cannot_label_or_read(server, run):
    good = {"pair_id": run.pairs.ids()[0], "label": "same", "seconds": 1}
    port = server.server_address[1]
    assert ask(server, "/label", good, Origin="https://elsewhere.example")[0] == 403
    assert ask(server, "/label", good, Origin="null")[0] == 403
    assert ask(server, "/label", good, Origin=f"http://127.0.0.1:{port + 1}")[0] == 403
    assert ask(server, "/label", good, Content_Type="text/plain")[0] == 415
    assert ask(server, "/state", Host=f"elsewhere.example:{port}")[0] == 403
    assert ask(server, "/state", Host="127.0.0.1.elsewhere.example")[0] == 403
    assert not (run.path / "labels").exists()
    assert ask(server, "/label", good, Origin=f"http://localhost:{port}", Host=f"localhost:{port}")[0] == 200
    assert ask(server, "/state", Host="localhost:9999")[0] == 200  # through a tunnel


def test_two_servers_of_one_person_see_each_others_labels(server, run):
    first = json.loads(ask(server, "/state")[1])["pair"]["id"]
    ask(server, "/label", {"pair_id": first, "label": "same", "seconds": 1})
    before = json.loads(ask(server, "/state")[1])
    other = Session(run, "ann", run.pairs.ids())
    other.save(before["pair"]["id"], "different")
    after = json.loads(ask(server, "/state")[1])
    assert (before["done"], after["done"], after["counts"]["different"]) == (1, 2, 1)
    assert after["pair"]["id"] not in (first, before["pair"]["id"])


def test_a_damaged_picture_spoils_no_other_pair(run, tmp_path):
    ids = run.pairs.ids()
    session = Session(run, "ann", ids)
    shard = tmp_path / "run" / "pairs" / "part-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[200] ^= 255
    shard.write_bytes(content)
    with LabelServer(session, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            status, answer, _ = ask(server, f"/picture/{ids[0]}/reference")
            assert status == 500
            assert "is damaged" in json.loads(answer)["error"]
            assert ask(server, "/state?place=3")[0] == 200
        finally:
            server.shutdown()
            thread.join()


def test_large_pictures_and_long_captions_are_cut(tmp_path):
    run = dsd.Run(tmp_path / "run")
    reference = Image.effect_noise((3000, 700), 60)
    pair = dsd.Pair(reference=reference, target=reference.convert("P"), caption="x" * 10**6)
    with run.lock("test"), TableWriter(run.pairs, {"name": "test"}) as writer:
        writer.add([pair])
        writer.finish()
    session = Session(run, "ann", [pair.id])
    assert len(session.state()["pair"]["caption"]) == 1001
    for side, mode in (("reference", "L"), ("target", "RGB")):
        with Image.open(BytesIO(session.picture(pair.id, side))) as image:
            assert (image.size, image.mode) == ((1536, 358), mode)


def test_a_taken_port_is_told(server, run):
    with pytest.raises(OSError, match=f"The port {server.server_address[1]} is taken"):
        LabelServer(Session(run, "bob", run.pairs.ids()), port=server.server_address[1])


def test_the_way_through_the_pairs(run):
    session = Session(run, "ann", run.pairs.ids()[:4])
    a, b, c, d = session.ids
    assert session.state()["pair"]["id"] == a
    assert session.state()["next"] == b
    assert session.save(b, "same")["pair"]["id"] == c
    assert session.save(d, "same")["pair"]["id"] == a, "what was skipped comes at the end"
    assert session.save(a, "unsure")["pair"]["id"] == c
    assert session.state()["next"] is None
    done = session.save(c, "different")
    assert (done["pair"], done["done"]) == (None, 4)
    assert done["counts"] == {"same": 2, "different": 1, "unsure": 1}
    assert session.state(1)["pair"]["label"] == "same"
    assert session.save(b, "different")["counts"] == {"same": 1, "different": 2, "unsure": 1}
