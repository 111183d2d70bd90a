"""Whatever text reaches a page stays text: in the parser of Python, and in a browser."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_cli import figures as plots
from diwa_cli.figures import Bar, Curve, success_bars
from diwa_cli.report import report
from diwa_cli.report.page import render
from diwa_cli.run_folder import SweepFolder
from diwa_cli.statistics import Interval, SuccessRate
from diwa_deploy.trials import Comparison, Trial

RUN = "open_drawer/seed_0/alpha_0.1"
DOCS = Path(__file__).parents[4] / "docs"
IMAGE = '"><img id=hostile src=x onerror="document.title=1">'
FRAGMENTS = ["<", ">", '"', "'", "&", "&lt;", "<!--", "-->", "</title>", "</style>", "</pre>", "<script>", "{{", "}}",
             "{%", " onload=x ", "javascript:", "]]>", "\0", "\r\n", "\ud800", IMAGE]  # fmt: skip
TEXT = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS)).map("".join))
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Structure(HTMLParser):
    """Tags with the names of their attributes, in order; the text; the links."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.links = [], "", []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, *(name for name, _ in attributes)))
        self.links += [value for name, value in attributes if (tag, name) == ("a", "href")]

    def handle_data(self, data):
        self.text += data


def with_text(value, text):
    """The same contents, `text` at the end of every text in them that is not empty."""
    if isinstance(value, str):
        return value and value + text
    if isinstance(value, dict):
        return {key: with_text(item, text) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [with_text(item, text) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


@pytest.fixture(scope="module")
def pages(run, tmp_path_factory):
    """Template -> contents of each kind of page."""
    one = SweepFolder(run)
    shown = report.contents(one, {single: report.filmed_pairs(single) for single in one.runs()})
    many = dict(shown)
    linked = {**shown["runs"][0], "embed": False, "films": [[("after imitation", "a/base_1.mp4",
              {"seed": 1, "success": True, "steps": 30})]]}  # fmt: skip
    many["runs"], many["failed"] = [linked, linked], [["open_drawer/record", "no space", 1]]
    many["dppo"] = [("open_drawer", {"seed": 0, "rate": 75.0, "steps": None, "practised": 100})]
    many["alphas"] = {"rows": [["0", "1", "2", "3 to 4", "5"]], "bars": shown["result"]["bars"]}
    many["cards"] = {"play": [{"path": "play.h5", "command": "diwa build-dataset", "text": "2 episodes"}]}
    many["curves"] = [shown["result"]["bars"]]
    trial = {"policy": "base", "success": True, "believed": False, "reason": "success", "steps": 30}
    judged = {"skill": "open_drawer", "file": "c.json", "bars": shown["result"]["bars"], "trials": [trial],
              "rates": {"base": SuccessRate(1, 2)}}  # fmt: skip
    return {"one": ("report.html", shown), "many": ("report.html", many), "comparison": ("comparison.html", judged)}


@pytest.mark.parametrize("kind", ["one", "many", "comparison"])
def test_no_text_becomes_an_element_or_an_attribute(pages, kind):
    template, contents = pages[kind]
    plain = Structure(render(template, **contents))
    films = ["a/base_1.mp4"] if kind == "many" else []
    assert [link for link in plain.links if not link.startswith("#")][:1] == films

    @settings(max_examples=60)
    @given(TEXT)
    def check(text):
        hostile = Structure(render(template, **with_text(contents, text)))
        assert hostile.tags == plain.tags
        assert text.encode(errors="replace").decode() in hostile.text

    check()


@pytest.fixture
def hostile_run(run, tmp_path):
    """A run with hostile text wherever its files hold any."""
    folder = shutil.copytree(run, tmp_path / "run")
    for name, place in (("base", folder / "open_drawer/seed_0"), ("finetuned", folder / RUN)):
        final = place / "evaluation/final"
        judged = json.loads((final / "evaluation.json").read_text())
        judged["config"]["max_steps"] = IMAGE
        judged["rollouts"][0]["seed"] = "<b id=hostile>"
        (final / "evaluation.json").write_text(json.dumps(judged))
        (final / f"videos/{name}_1.mp4").rename(final / f"videos/{name}_<b id=hostile>.mp4")
    found = json.loads((folder / "results.json").read_text())
    for row in (found["skills"][0], found["runs"][0]):
        row["skill"] = "$\\frac" + IMAGE
    found["failed"] = {IMAGE: IMAGE}
    found["stages"] = {"$\\frac" + IMAGE: {"seconds": 1.0, "commands": {IMAGE: IMAGE}}}
    (folder / "results.json").write_text(json.dumps(found))
    description = json.loads((folder / "run.json").read_text())
    description["config"][IMAGE] = {"seed": IMAGE}
    (folder / "run.json").write_text(json.dumps(description | {"command": IMAGE, "versions": {IMAGE: IMAGE}}))
    return folder


def test_a_run_of_hostile_labels_is_a_page_of_text(hostile_run):
    found = Structure(report.write_report(hostile_run).read_text())
    assert found.text.count(IMAGE) > 6
    assert sum(tag == "video" for tag, *_ in found.tags) == 2
    assert not [tag for tag in found.tags if tag == ("b", "id") or "onerror" in tag]


@pytest.mark.filterwarnings("ignore::UserWarning")  # no room for the bars
def test_a_comparison_of_hostile_labels_is_a_page_of_text(tmp_path):
    comparison = Comparison(tmp_path / "comparison.json", IMAGE, (IMAGE, "$\\frac"), 10, 0)
    comparison.add(Trial(comparison.next, True, True, IMAGE, 30))
    found = Structure(report.write_comparison(tmp_path / "comparison.json").read_text())
    assert found.text.count(IMAGE) >= 3
    assert "img" in {tag for tag, *_ in found.tags}, "the bars"
    assert not [tag for tag in found.tags if "onerror" in tag]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium")
def test_a_browser_shows_the_drawings_and_runs_nothing(hostile_run, tmp_path):
    page = report.write_report(hostile_run)
    text = page.read_text()
    injected = "<script>document.title = 'broken in'</script><img src=x onerror=\"document.title = 'broken in'\">"
    assert text.count("<main>") == 1
    page.write_text(text.replace("<main>", "<main>" + injected))  # as if escaping had failed somewhere
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,1400", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}", page.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = Structure(ran.stdout)
    title = re.search("<title>(.*?)</title>", ran.stdout, re.S).group(1)
    assert title.startswith("DiWA: $"), "no script ran"
    assert sum("onerror" in tag for tag in found.tags) == 1, "the injected one"
    assert ("b", "id") not in found.tags
    picture = cv2.imread(str(tmp_path / "page.png"))
    assert (picture == np.array([0x75, 0x7A, 0x0B])).all(axis=2).sum() > 4000, "the bar of the fine-tuned policy"


@pytest.mark.filterwarnings("ignore::UserWarning")  # no glyph, no room: it is drawn all the same
@settings(max_examples=12)
@given(TEXT)
def test_a_drawing_is_xml_whatever_its_labels_are(text):
    curves = {text: Curve([0, 1], [1, 2]), "other": Curve([0, 1], [1, 2])}
    for drawn in (success_bars({text: SuccessRate(1, 2)}), plots.lines(curves, text, text)):
        assert xml.etree.ElementTree.fromstring(drawn).tag.endswith("svg")


def test_the_offline_score_has_an_axis_of_its_own(monkeypatch):
    monkeypatch.setattr(plots, "svg", lambda figure: figure)
    dream, scores = Curve([0, 1], [20, 90]), Curve([0, 10], [-0.4, 1.2])
    left, right = plots.lines({"after dreaming": dream}, "x", "success, %", scores=scores, chosen=10).axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("success, %", "offline score")
    assert list(right.lines[0].get_ydata()) == [-0.4, 1.2]
    assert right.get_ylim()[0] < -0.4 < 1.2 < right.get_ylim()[1]


def test_a_legend_names_each_series_once(monkeypatch):
    monkeypatch.setattr(plots, "svg", lambda figure: figure)
    group = {"a": Bar(50, Interval(40, 60), [45, 55], mark=30), "b": Bar(70, mark=20)}
    (axes,) = plots.bars({"one": group, "two": group}, "success, %", mark="before").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["before", "a", "b"]
    assert [bar.get_width() for bar in axes.patches] == [50, 70, 50, 70]
    colors = [bar.get_facecolor() for bar in axes.patches]
    assert colors[:2] == colors[2:]
    assert colors[0] != colors[1]


@pytest.mark.parametrize("page", sorted(DOCS.glob("**/*.html")), ids=lambda page: page.name)
def test_pages_of_the_docs_have_no_dead_link(page):
    found = Structure(page.read_text())
    assert [link for link in found.links if not link.startswith("#") and not (page.parent / link).exists()] == []
