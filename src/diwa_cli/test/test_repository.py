"""Files that a code host reads: they parse, call what CI calls, and say what the code says."""

import re
from pathlib import Path

import pytest
import yaml

import diwa_data

ROOT = Path(__file__).parents[3]


def read(name: str):
    return yaml.safe_load((ROOT / name).read_text())


def test_the_paper_is_cited_with_its_authors_and_the_software_by_its_version():
    found = read("CITATION.cff")
    assert (found["cff-version"], found["version"]) == ("1.2.0", diwa_data.__version__)
    assert {"message", "title", "authors", "license"} <= set(found)
    paper = found["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == [
        "Chandra", "Nematollahi", "Huang", "Welschehold", "Burgard", "Valada",
    ]  # fmt: skip
    assert paper["url"].endswith("2508.03645")
    assert paper["url"] in (ROOT / "README.md").read_text()


def test_workflows_run_what_runs_here():
    workflow = read(".github/workflows/ci.yml")
    (job,) = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    (other,) = read(".gitlab-ci.yml").values()
    assert other["script"] == [".ci/run"]
    assert job["container"] == other["image"] == "debian:12"
    installed = [line for line in other["before_script"] if "pip install" in line]
    assert installed == [step["run"] for step in job["steps"] if "pip install" in step.get("run", "")]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_hooks_are_the_lines_of_make_check():
    (local,) = read(".pre-commit-config.yaml")["repos"]
    rules = re.search(r"^check: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = [line.strip().removeprefix("$(BIN)/") for line in rules[1].splitlines()]
    hooks = [hook["entry"].removeprefix(".venv/bin/").replace(" --force-exclude", "") for hook in local["hooks"]]
    assert len(hooks) == len(commands)
    assert all(command.startswith(hook) for hook, command in zip(hooks, commands, strict=True))


@pytest.mark.parametrize("form", ["bug", "idea"])
def test_issue_forms_have_fields_that_the_host_knows(form):
    found = read(f".github/ISSUE_TEMPLATE/{form}.yml")
    assert {"name", "description", "body"} <= set(found)
    ids = [field["id"] for field in found["body"]]
    assert len(set(ids)) == len(ids)
    assert {field["type"] for field in found["body"]} <= {"textarea", "dropdown", "input", "checkboxes", "markdown"}
    assert all(field["attributes"]["label"] for field in found["body"])
