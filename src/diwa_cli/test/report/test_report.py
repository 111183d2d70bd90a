"""The report is one file, complete or not, and says what is missing."""

import json
import shutil
from html.parser import HTMLParser

import pytest

from diwa_cli.report import report
from diwa_cli.report.report import filmed_pairs, write_report
from diwa_cli.run_folder import find_run
from diwa_data.errors import DiwaError

RUN = "open_drawer/seed_0/alpha_0.1"
VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """Collects addresses, alternative texts and ids, and checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.ids, self.silent, self.open = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[key] for key in ("src", "href", "poster", "action", "srcset") if key in values]
        self.ids += [values["id"]] if "id" in values else []
        if (tag == "img" and not values.get("alt")) or (tag == "video" and not values.get("aria-label")):
            self.silent.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(run):
    return write_report(run).read_text()


def test_nothing_is_loaded_from_elsewhere(run):
    text = read(run)
    found = Page(text)
    assert found.addresses
    assert all(address.startswith(("data:", "#")) for address in found.addresses)
    assert {address[1:] for address in found.addresses if address.startswith("#")} <= set(found.ids)
    assert "http:" not in text
    assert "https:" not in text
    assert "file://" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_every_picture_and_video_says_what_it_shows(run):
    found = Page(read(run))
    assert found.silent == []
    assert sum(address.startswith("data:video/mp4") for address in found.addresses) == 2
    assert sum(address.startswith("data:image/svg+xml") for address in found.addresses) >= 6


def test_it_shows_the_result_and_how_it_came_about(run):
    text = " ".join(read(run).split())
    for expected in (
        'open drawer: <span class="base">50 %',
        "75 %",
        "+25 percentage points",
        "−20 to +60",
        "2 of 4",
        "72,000",
        "8000000000 to 8000000003",
        "diwa finetune --out &lt;y&gt;",
        '<td>open_drawer</td><td class="n">1 of 1</td>',
        "the policy after iteration 0 of 10, the best of 2 by the offline score",
        "It succeeds in 50 % in the simulator, the last one in 100 %.",
        "recorded actions 1.00, shuffled actions 2.50.",
    ):
        assert expected in text


def test_what_is_missing_is_named_with_its_command(run):
    text = read(run)
    assert "play.h5 is not there: <code>diwa build-dataset</code>" in text


def test_a_run_just_begun_gives_a_page_of_missing_parts(run, tmp_path):
    shutil.copy(run / "run.json", tmp_path)
    text = read(tmp_path)
    Page(text)
    for command in ("diwa evaluate", "diwa finetune", "diwa train-world-model", "diwa train-reward", "diwa demo"):
        assert command in text


def test_many_runs_have_their_table_and_a_fold_each_with_links_to_films(run, tmp_path, write_run):
    folder = shutil.copytree(run, tmp_path / "sweep")
    write_run(folder / "open_drawer/seed_1", folder / "open_drawer/seed_1/alpha_0.1")
    results = json.loads((folder / "results.json").read_text())
    results["runs"].append({**results["runs"][0], "seed": 1})
    results["skills"][0]["seeds"] = [0, 1]
    results |= {
        "failed": {"close_drawer/record": "<no space>"},
        "left_out": {"close_drawer/build": "close_drawer/record"},
    }
    (folder / "results.json").write_text(json.dumps(results))
    text = read(folder)
    found = Page(text)
    assert "open drawer, 2 seeds" in text
    assert "4 of 8" in text
    assert "&lt;no space&gt;" in text
    for path in (
        "seed_0/evaluation/final/videos/base_1.mp4",
        "seed_1/alpha_0.1/evaluation/final/videos/finetuned_1.mp4",
    ):
        assert f"open_drawer/{path}" in found.addresses
        assert (folder / "open_drawer" / path).is_file()
    assert sum(address.startswith("data:image/png") for address in found.addresses) == 3, "two pairs, one open loop"
    assert "<summary>open_drawer/seed_1/alpha_0.1</summary>" in text
    assert "<video" not in text


def test_before_and_after_are_drawn_of_the_first_start_that_only_the_result_solves(run, tmp_path, monkeypatch):
    folder = shutil.copytree(run, tmp_path / "run")
    shown = find_run(folder)
    assert [pair["base"]["seed"] for pair in filmed_pairs(shown)] == [1]
    for name, place in (("base", shown.base_final), ("finetuned", shown.final)):
        shutil.copy(place / f"videos/{name}_1.mp4", place / f"videos/{name}_2.mp4")
    drawn = []
    monkeypatch.setattr(report, "draw_pair", lambda films, strip, film, width: drawn.append(films))
    write_report(folder)
    assert [film.name for film in drawn[0].values()] == ["base_2.mp4", "finetuned_2.mp4"]


def test_no_folder_is_one_error(tmp_path):
    with pytest.raises(DiwaError, match="no run folder"):
        write_report(tmp_path / "nowhere")


def test_a_folder_without_a_run_is_refused_and_stays_as_it_was(tmp_path):
    for part in ("policy", "reward", "world_model"):  # as in a skill bundle
        (tmp_path / part).mkdir()
    with pytest.raises(DiwaError, match="holds no run"):
        write_report(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("run.json", '"versions"', '"other"'),
        ("run.json", '"config": {', '"config": [], "was": {'),
        ("results.json", "61.5", '"long"'),
        ("results.json", '"base_interval"', '"other"'),
        (f"{RUN}/evaluation/curve/evaluation.json", '"successes"', '"won"'),
    ],
)
def test_a_file_that_lacks_what_the_page_shows_is_one_error(run, tmp_path, name, old, new):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("before_after.*", "videos", "report.html"))
    text = (tmp_path / "run" / name).read_text()
    assert old in text
    (tmp_path / "run" / name).write_text(text.replace(old, new))
    with pytest.raises(DiwaError, match=r"run holds a file that is damaged or of another version|run\.json is damaged"):
        write_report(tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("damage", [b"", b"no film"])
def test_films_that_cannot_be_read_cost_the_report_nothing(run, tmp_path, capsys, damage):
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("before_after.*"))
    (tmp_path / "run/open_drawer/seed_0/evaluation/final/videos/base_1.mp4").write_bytes(damage)
    assert "+25 percentage points" in read(tmp_path / "run")
    assert capsys.readouterr().err.startswith(f"warning: no {tmp_path / 'run' / RUN / 'before_after.gif'}: ")
    assert not (tmp_path / "run" / RUN / "before_after.gif").exists()


def test_a_reader_that_times_out_costs_the_report_nothing(run, tmp_path, capsys, monkeypatch):
    def timed_out(path):
        raise OSError("Could not load meta information")
        yield

    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("before_after.*"))
    monkeypatch.setattr("imageio_ffmpeg.read_frames", timed_out)
    assert read(tmp_path / "run")
    assert "before_after.gif: OSError: Could not load meta information" in capsys.readouterr().err
