"""Pushing to a Hub that the test starts on this machine; the client is the real one."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import traceback
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from dsd import Student
from dsd.publish import hub

TOKEN = "hf_ThisIsASecretOfTheTest0123456789"


class FakeHub(ThreadingHTTPServer):
    """The few endpoints of the Hub that an upload needs; keeps what it was given."""

    def __init__(self, refuse: dict[str, int] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refuse = refuse or {}
        self.created: list[dict] = []
        self.blobs: dict[str, bytes] = {}
        self.commits: list[dict[str, bytes]] = []
        self.tokens: set[str | None] = set()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *arguments) -> None:
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, content, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.reply({"error": "not found"}, 404)

    def do_PUT(self) -> None:
        content = self.body()
        name = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == name
        self.server.blobs[name] = content
        self.reply({})

    def do_POST(self) -> None:
        body = self.body()
        self.server.tokens.add(self.headers.get("Authorization"))
        for part, status in self.server.refuse.items():
            if part in self.path:
                self.reply({"error": f"refused, {self.headers.get('Authorization')}"}, status)
                return
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self.reply({"url": f"{self.server.url}/me/mine"})
        elif self.path.startswith("/api/validate-yaml"):
            self.reply({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            self.reply(
                {
                    "files": [
                        {
                            "path": x["path"],
                            "shouldIgnore": False,
                            "uploadMode": mode[x["path"].endswith("tensors")],
                        }
                        for x in files
                    ]
                }
            )
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**x, "actions": {"upload": {"href": f"{self.server.url}/blob/{x['oid']}", "header": {}}}}
                for x in json.loads(body)["objects"]
            ]
            self.reply({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            commit = {}
            for line in map(json.loads, body.decode().splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    commit[value["path"]] = b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    commit[value["path"]] = self.server.blobs[value["oid"]]
            self.server.commits.append(commit)
            self.reply(
                {
                    "commitUrl": f"{self.server.url}/me/mine/commit/abc",
                    "commitOid": "abc",
                    "pullRequestUrl": "",
                }
            )
        else:
            self.reply({"error": f"unknown {self.path}"}, 404)


@pytest.fixture(scope="module")
def saved(tiny_flux, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "student"
    student = Student(str(tiny_flux), "parallel", lora={"rank": 2}, frame_size=(32, 32))
    student.save_pretrained(folder, components="trained")
    return folder


def pushed(saved: Path, out: Path, server: FakeHub) -> subprocess.CompletedProcess:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_HOME": str(out.parent / "home"),  # no token of whoever runs the tests
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": TOKEN,
    }
    words = ["export", str(saved), str(out), "--format", "lora", "--push", "me/mine", "--debug"]
    return subprocess.run(
        [sys.executable, "-m", "dsd", *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )


def no_secret(done: subprocess.CompletedProcess, folder: Path) -> None:
    assert TOKEN not in done.stdout + done.stderr
    for path in folder.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def test_a_push_is_one_commit_of_all_files(saved, tmp_path):
    server = FakeHub()
    done = pushed(saved, tmp_path / "out", server)
    assert done.returncode == 0, done.stderr
    assert f"{server.url}/me/mine" in done.stdout
    files = {
        str(x.relative_to(tmp_path / "out")): x.read_bytes()
        for x in (tmp_path / "out").rglob("*")
        if x.is_file()
    }
    assert server.commits == [files]
    assert {"README.md", "dsd.json", "pytorch_lora_weights.safetensors"} <= files.keys()
    assert server.created[0]["name"] == "mine"
    assert server.created[0].get("visibility", server.created[0].get("private")) in ("private", True)
    assert server.tokens == {f"Bearer {TOKEN}"}
    assert b'load_lora_weights("me/mine"' in files["README.md"]
    no_secret(done, tmp_path)
    server.shutdown()


@pytest.fixture
def online(monkeypatch) -> None:
    """The client asks servers, whatever the environment of the tests says."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@pytest.mark.parametrize("refuse", [{"/repos/create": 403}, {"/commit/": 403}])
def test_a_refused_push_keeps_the_folder_and_the_secret(saved, monkeypatch, online, refuse):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server = FakeHub(refuse)
    with pytest.raises(
        LookupError, match=r"The Hub did not take me/mine.*is whole; try `hf upload me/mine"
    ) as raised:
        hub.push(saved, "me/mine", endpoint=server.url)
    assert server.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in "".join(traceback.format_exception(raised.value))
    assert (saved / "dsd.json").is_file()
    assert server.commits == []
    server.shutdown()


def test_a_hub_that_does_not_answer(saved, monkeypatch, online):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(LookupError, match="The Hub did not take me/mine"):
        hub.push(saved, "me/mine", endpoint="http://127.0.0.1:9")


def test_without_a_token_the_error_says_how_to_get_one(saved, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(LookupError, match="Run `hf auth login` or set HF_TOKEN"):
        hub.push(saved, "me/mine")


@pytest.mark.parametrize("repo", ["mine", "a/b/c", "../x", "a /b", "/b", "a/"])
def test_what_is_no_repository(repo):
    with pytest.raises(ValueError, match="owner/name"):
        hub.check_repo(repo)
