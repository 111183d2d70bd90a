"""`diwa push` and `diwa pull` against a stand-in of the Hub: what comes back is what went, or nothing at all."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from diwa_cli.pipeline.hub import Repository, kind_of
from diwa_data.dataset.dataset import Episode, load_dataset, save_dataset
from diwa_data.errors import DiwaError
from diwa_data.spec import Spec
from diwa_deploy.bundle import load_bundle, pack_bundles, write_bundle

constants = pytest.importorskip("huggingface_hub.constants")

TOKEN = "hf_right"


class StandIn(ThreadingHTTPServer):
    """The part of the Hub's HTTP interface that repositories, commits and downloads need, in memory."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = {}  # "models/USER/NAME" -> branch -> list of commits, each path -> bytes
        self.private = {}
        self.large = {}  # SHA-256 -> bytes
        self.cut_off = ""  # path of a file whose download breaks

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, name, revision="main"):
        """Path -> bytes, of the newest commit of a branch, or of a commit."""
        branches = self.repositories[name]
        if revision in branches:
            return branches[revision][-1]
        return next(files for commits in branches.values() for files in commits if commit_of(files) == revision)


def commit_of(files):
    text = b"".join(name.encode() + content for name, content in sorted(files.items()))
    return hashlib.sha1(text).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/api/(\w+/[\w.-]+/[\w.-]+)(?:/(revision|tree)/(.+))?", path):
            self._describe(found[1], found[2], found[3] or "main")
        elif found := re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            self._download(f"{(found[1] or 'models/')}{found[2]}", found[3], found[4])
        else:
            self._answer(404, {"error": path})

    do_HEAD = do_GET

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
        self.server.large[self.path.rpartition("/")[2]] = content
        self._answer(200, {})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = unquote(urlsplit(self.path).path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials in Authorization header"})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/objects/batch"):
            objects = json.loads(body)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{self.server.address}/large/{one['oid']}"}}
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/(\w+/[\w.-]+/[\w.-]+)/(preupload|commit|branch)/(.+)", path):
            getattr(self, f"_{found[2]}")(found[1], found[3], body)
        else:
            self._answer(404, {"error": path})

    def _create(self, about):
        user = f"{about['organization']}/" if about.get("organization") else ""
        name = f"{about.get('type', 'model')}s/{user}{about['name']}"
        if name in self.server.repositories:
            return self._answer(409, {"error": "You already created this repo", "url": f"{self.server.address}/{name}"})
        self.server.repositories[name] = {"main": [{".gitattributes": b"*.safetensors filter=lfs\n"}]}
        self.server.private[name] = about.get("private", about.get("visibility") == "private")
        return self._answer(200, {"url": f"{self.server.address}/{name.removeprefix('models/')}"})

    def _branch(self, name, branch, _):
        branches = self.server.repositories[name]
        if branch in branches:
            return self._answer(409, {"error": "Reference already exists"})
        branches[branch] = list(branches["main"])
        return self._answer(200, {})

    def _preupload(self, _, __, body):
        large = (".safetensors", ".h5")
        files = [
            {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(large) else "regular"}
            for one in json.loads(body)["files"]
        ]
        self._answer(200, {"files": [{**one, "shouldIgnore": False} for one in files]})

    def _commit(self, name, branch, body):
        files = dict(self.server.files(name, branch))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", commit_of(files)) != commit_of(files):
                return self._answer(412, {"error": "A commit has happened since"})
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.server.repositories[name][branch].append(files)
        address = f"{self.server.address}/{name.removeprefix('models/')}/commit/{commit_of(files)}"
        return self._answer(200, {"commitUrl": address, "commitOid": commit_of(files), "success": True})

    def _describe(self, name, what, revision):
        if name not in self.server.repositories:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        try:
            files = self.server.files(name, revision)
        except StopIteration:
            return self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        if what == "tree":
            digest = {path: hashlib.sha1(content).hexdigest() for path, content in files.items()}
            rows = [{"type": "file", "path": p, "size": len(c), "oid": digest[p]} for p, c in files.items()]
            return self._answer(200, rows)
        siblings = [{"rfilename": path} for path in files]
        about = {"id": name.partition("/")[2], "sha": commit_of(files), "siblings": siblings, "tags": []}
        return self._answer(200, {**about, "private": False, "downloads": 0, "likes": 0})

    def _download(self, name, revision, path):
        files = self.server.files(name, revision)
        content = files[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit_of(files))
        self.end_headers()
        if self.command == "GET":
            cut = path == self.server.cut_off
            self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = cut

    def _answer(self, status, value, headers=None):
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A Hub of our own, in whose cache is nothing; the token is right."""
    with StandIn() as standing:
        thread = threading.Thread(target=standing.serve_forever, args=(0.01,))
        thread.start()
        home = tmp_path / "hf"
        template = standing.address + "/{repo_id}/resolve/{revision}/{filename}"
        settings = {
            "ENDPOINT": standing.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }
        for key, value in settings.items():
            monkeypatch.setattr(constants, key, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("DIWA_HOME", str(tmp_path / "diwa"))
        yield standing
        standing.shutdown()
        thread.join()


@pytest.fixture
def bundle(checkpoints, tmp_path):
    parts = {name: getattr(checkpoints, name) for name in ("world_model", "policy", "reward")}
    return write_bundle(tmp_path / "open_drawer", {**parts, "base": checkpoints.other_policy}, {"skill": "open_drawer"})


@pytest.fixture
def dataset(tmp_path):
    """Two frames of nothing."""
    spec, path = Spec(), tmp_path / "play.h5"
    images = {camera.name: np.zeros((2, *camera.size, 3), np.uint8) for camera in spec.cameras}
    state = np.tile(np.array([0.4, 0, 0.3, 1, 0, 0, 0, 1, 0, 0.08]), (2, 1))
    actions, ticks = np.tile(spec.action.null, (2, 1)), np.arange(2) / spec.rate
    about = {"source": "play", "skill": "", "labels": {}, "segment": 0, "bag": "", "flagged": [], "clipped": 0}
    episode = Episode("000000", images, state, actions, np.zeros(2, bool), ticks, ticks, None, about, state[:, :9])
    save_dataset(path, spec, [episode])
    return path


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_skill_comes_back_as_it_went_and_is_installed(diwa, server, bundle, tmp_path):
    ran = diwa("push", bundle.path, "lab/open_drawer")
    commit = commit_of(server.files("models/lab/open_drawer"))
    assert (ran.status, ran.out) == (0, f"{server.address}/lab/open_drawer/commit/{commit}\n")
    assert server.private == {"models/lab/open_drawer": True}
    page = server.files("models/lab/open_drawer")["README.md"].decode()
    assert "\nskill bundle open_drawer: open_drawer\n" in page
    assert "\ndiwa pull lab/open_drawer\ndiwa run-skill --skill open_drawer" in page
    assert str(tmp_path) not in page

    ran = diwa("pull", "lab/open_drawer")
    place = tmp_path / "diwa" / "skills" / "open_drawer"
    assert (ran.status, ran.out) == (0, f"{place}: skill of lab/open_drawer, commit {commit[:12]}\n")
    assert contents(place) == contents(bundle.path)
    assert load_bundle(place).skill == "open_drawer"
    ran = diwa("pull", "lab/open_drawer")
    assert (ran.status, "exists already: delete it" in ran.err) == (2, True)


def test_a_compact_skill_takes_the_world_model_beside_it_along(diwa, server, bundle, tmp_path):
    (packed,) = pack_bundles([bundle], tmp_path / "packed", decoders=True)
    assert diwa("push", packed, "lab/open_drawer", "--public").status == 0
    assert server.private == {"models/lab/open_drawer": False}
    out = tmp_path / "out"
    assert diwa("pull", "lab/open_drawer", "--out", out).status == 0
    assert contents(load_bundle(out).world_model) == contents(packed.parent / "world_model")
    ran = diwa("push", packed.parent, "lab/all")
    assert f"holds 1 skill bundles: push one of them, such as {packed}" in ran.err


def test_branches_commits_and_what_is_gone(diwa, server, bundle, tmp_path):
    assert diwa("push", bundle.path, "lab/a").status == 0
    first = commit_of(server.files("models/lab/a"))
    shutil.rmtree(bundle.path / "base")
    parts = {part: getattr(bundle, part) for part in ("world_model", "policy", "reward")}
    small = write_bundle(tmp_path / "small", parts, {"skill": "open_drawer", "seed": 2})
    assert diwa("push", small.path, "lab/a", "--revision", "smaller").status == 0
    assert commit_of(server.files("models/lab/a")) == first
    assert diwa("push", small.path, "lab/a").status == 0
    assert not any(name.startswith("base/") for name in server.files("models/lab/a"))
    for revision, has_base in (("main", False), (first, True), ("smaller", False)):
        assert diwa("pull", "lab/a", "--out", tmp_path / revision, "--revision", revision).status == 0
        assert (tmp_path / revision / "base").is_dir() == has_base
    ran = diwa("pull", "lab/a", "--out", tmp_path / "x", "--revision", "later")
    assert (ran.status, ran.err) == (
        2,
        "error: lab/a: it has no revision 'later': name a branch, tag or commit of it\n",
    )


def test_checkpoints_and_datasets_go_too(diwa, server, checkpoints, dataset, tmp_path):
    assert diwa("push", checkpoints.world_model, "lab/model").status == 0
    assert diwa("pull", "lab/model").err == "error: lab/model holds a checkpoint: say with --out where it goes\n"
    assert diwa("pull", "lab/model", "--out", tmp_path / "model").status == 0
    assert contents(tmp_path / "model") == contents(checkpoints.world_model)

    assert diwa("push", dataset, "lab/play").status == 0
    assert b"task_categories: [robotics]" in server.files("datasets/lab/play")["README.md"]
    assert diwa("pull", "datasets/lab/play", "--out", tmp_path / "pulled.h5").status == 0
    assert len(load_dataset(tmp_path / "pulled.h5").episodes) == 1
    assert (tmp_path / "pulled.h5").read_bytes() == dataset.read_bytes()
    ran = diwa("pull", "lab/play", "--out", tmp_path / "x.h5")
    assert "error: lab/play: it is not there, or your token may not see it; a dataset's name begins with" in ran.err
    assert "is a checkpoint, not a dataset" in diwa("push", checkpoints.world_model, "datasets/lab/play").err
    assert "holds a checkpoint, and" in diwa("push", write_all(checkpoints, tmp_path), "lab/model").err


def write_all(checkpoints, folder):
    parts = {name: getattr(checkpoints, name) for name in ("world_model", "policy", "reward")}
    return write_bundle(folder / "bundle", parts, {"skill": "open_drawer"}).path


def test_what_is_not_ours_is_refused_in_both_directions(diwa, server, bundle, tmp_path):
    out = tmp_path / "out"
    assert diwa("push", bundle.path, "lab/a").status == 0
    files = server.files("models/lab/a")
    for name, message in (
        ("policy/more.pkl", "pickled files run code"),
        ("code.py", "code.py, which is not a file of a"),
    ):
        server.repositories["models/lab/b"] = {"main": [{**files, name: b"x"}]}
        for ran in (diwa("pull", "lab/b", "--out", out), diwa("push", bundle.path, "lab/b")):
            assert (ran.status, len(ran.err.splitlines()), message in ran.err) == (2, 1, True), ran.err
    server.repositories["models/lab/b"] = {"main": [{k: v for k, v in files.items() if k != "policy/spec.json"}]}
    assert "lab/b lacks policy/spec.json" in diwa("pull", "lab/b", "--out", out).err
    (tmp_path / "notes").mkdir()
    assert "notes is not a skill bundle, checkpoint or dataset" in diwa("push", tmp_path / "notes", "lab/c").err
    (tmp_path / "notes" / "config.json").write_text("{}")
    assert "is not the configuration of a checkpoint" in diwa("push", tmp_path / "notes", "lab/c").err
    assert "nowhere does not exist" in diwa("push", tmp_path / "nowhere", "lab/c").err
    assert "'lab' names no repository" in diwa("push", bundle.path, "lab").err
    assert not out.exists()
    out.mkdir()
    assert "exists already" in diwa("pull", "lab/a", "--out", out).err


@pytest.mark.parametrize("name", ["policy/weights.safetensors", "card.json"])
def test_what_was_changed_on_the_way_leaves_nothing(diwa, server, bundle, tmp_path, name):
    assert diwa("push", bundle.path, "lab/a").status == 0
    files = server.files("models/lab/a")
    turned = bytes([*files[name][:-9], files[name][-9] ^ 1, *files[name][-8:]])
    server.repositories["models/lab/a"] = {"main": [{**files, name: turned}]}
    ran = diwa("pull", "lab/a", "--out", tmp_path / "out")
    assert (ran.status, ran.err.count("error: lab/a is refused: lab/a/")) == (2, 1), ran.err
    assert f"copy to delete is {tmp_path / 'hf' / 'hub' / 'models--lab--a'}" in ran.err
    assert not list(tmp_path.glob("*out*"))


def test_a_dataset_without_its_checksum_or_with_another_byte_is_refused(diwa, server, dataset, tmp_path):
    assert diwa("push", dataset, "lab/play").status == 0
    files = server.files("datasets/lab/play")
    whole = files["play.h5"]
    for content, message in ((whole[512:], "has no checksum"), (whole[:-5] + b"?" + whole[-4:], "checksum differs")):
        server.repositories["datasets/lab/play"] = {"main": [{**files, "play.h5": content}]}
        ran = diwa("pull", "datasets/lab/play", "--out", tmp_path / "out.h5")
        assert (ran.status, message in ran.err) == (2, True), ran.err
    assert not list(tmp_path.glob("*out*"))


def test_tokens_and_a_network_that_breaks_are_one_line(diwa, server, bundle, tmp_path, monkeypatch):
    assert diwa("push", bundle.path, "lab/a").status == 0
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    ran = diwa("push", bundle.path, "lab/b")
    said = (
        "error: lab/b: the Hub refuses your token: make one that may write, then run `hf auth login` or set HF_TOKEN\n"
    )
    assert (ran.status, ran.err) == (2, said)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    ran = diwa("pull", "lab/a", "--out", tmp_path / "out")
    assert (ran.status, len(ran.err.splitlines()), "is the network up?" in ran.err) == (2, 1, True), ran.err
    assert not (tmp_path / "out").exists()


def test_a_real_command_works_offline_with_what_was_pulled_before(diwa, server, bundle, tmp_path, monkeypatch):
    home = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def command(*words, **more):
        run = [sys.executable, "-m", "diwa_cli.main", *map(str, words)]
        return subprocess.run(run, env=os.environ | home | more, capture_output=True, text=True, timeout=300)

    assert command("push", bundle.path, "lab/a", HF_ENDPOINT=server.address).returncode == 0
    assert diwa("pull", "lab/a", "--out", tmp_path / "one").status == 0
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert command("pull", "lab/a", "--out", tmp_path / "two", **offline).returncode == 0
    assert contents(tmp_path / "two") == contents(bundle.path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = "error: lab/a: HF_HUB_OFFLINE is set: unset it to reach the Hub\n"
    assert diwa("push", bundle.path, "lab/a").err == said
    ran = diwa("pull", "lab/other", "--out", tmp_path / "three")
    said = "error: lab/other: HF_HUB_OFFLINE is set, and this machine has no copy of it: unset it\n"
    assert (ran.status, ran.err) == (2, said)


@pytest.mark.parametrize("name", ["lab", "a/b/c", "../x", "lab/a..b", "lab/", "spaces/a/b", "lab/-a", "lab/a.", ""])
def test_names_that_no_repository_has(name):
    with pytest.raises(DiwaError, match="names no repository on the Hub"):
        Repository.parse(name)


def test_kinds_are_told_by_their_files():
    assert kind_of({"play.h5", "README.md", ".gitattributes"}, "x") == "dataset"
    for names in ({"README.md"}, {"a.h5", "b.h5"}, {"../a.h5"}, {"sub/a.h5"}, set()):
        with pytest.raises(DiwaError, match=r"^x holds "):
            kind_of(names, "x")
