"""The docs site: it builds without a network and without a dead link, and none of its pages asks another host."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from diwa_data.recording.messages import TYPES

ROOT = Path(__file__).parents[3]
PICTURES = sorted((ROOT / "docs/images").glob("*.svg"))
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
"""Element -> its attribute that names what a browser loads by itself."""


class Loaded(HTMLParser):
    """Addresses that a page makes a browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "edit"):
            self.found.append(given["href"])
        elif given.get(LOADS.get(tag, "")):
            self.found.append(given[LOADS[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="make setup brings mkdocs")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    nowhere = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https")}
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_holds_every_page_and_the_api(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.name for path in site.iterdir()}
    assert 'id="diwa_learning.policy.base.ChainPolicy.denoise"' in (site / "api/diwa_learning/index.html").read_text()
    assert 'href="results/"' in (site / "index.html").read_text()  # the README's link to docs/results.md


def test_no_page_asks_another_host_for_anything(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        reader = Loaded()
        reader.feed(page.read_text())
        assert [address for address in reader.found if re.match(r"(https?:)?//", address)] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\"?(https?:)?//|@import", sheet.read_text()), sheet


def test_an_anchor_that_is_not_there_fails_the_build(tmp_path):
    pytest.importorskip("mkdocs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# One\n\n[to nothing](#two)\n")
    validation = re.search(r"^strict: .*\nvalidation:\n.+\n", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(f"site_name: one\n{validation[0]}")
    built = subprocess.run([sys.executable, "-m", "mkdocs", "build"], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 1
    assert "#two" in built.stderr


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_pictures_load_nothing_and_name_topics_that_there_are(path):
    text = path.read_text()
    assert not re.search(r"<script|href=\"https?:|src=\"https?:", text.replace('xlink:href="#', ""))
    known = {*TYPES, "/diwa/static/image", "/diwa/gripper/image"}
    assert set(re.findall(r"/diwa/[\w/]+", text)) <= known
