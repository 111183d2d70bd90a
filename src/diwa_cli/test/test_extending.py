"""docs/extending.md: its sections stand in order, and its code blocks work as they are printed.

What a fenced block is, by the words behind its backticks:

    python title="NAME"    a file NAME, of whatever language; the section's text names it before, in backticks
    sh                     commands
    sh ros                 commands that need ROS 2 and the built workspace
    text                   what a reader sees; nothing is done with it

The blocks of a section are worked off in order, in a new folder: files are written, commands run by `bash -e`. There
`diwa` is this source tree's, `pip install FOLDER` installs into the test's folder and asks no index, and `$DIWA_HOME`
is the test's own. `GIVEN` puts into the folder what the section says that its reader has. A section with blocks of
`sh ros` is a second test, which works off all of them and is left out, and counted, without the workspace; the first
leaves those blocks out.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from diwa_data.spec import CameraSpec, Spec
from diwa_data.testing.foreign import write_foreign
from diwa_data.testing.synthetic import record_synthetic

PAGE = Path(__file__).parents[3] / "docs/extending.md"
SECTIONS = (
    "A skill on a real robot",
    "A simulated task",
    "Cameras",
    "A robot",
    "Bags of another lab",
    "A policy class",
)
SECONDS = 300
"""Time after which a block of commands is stuck."""


def a_demo(folder: Path, request: pytest.FixtureRequest) -> None:
    """`runs/demo` of open_drawer, made small."""
    shutil.copytree(request.getfixturevalue("small_demo"), folder / "runs/demo")


def their_bags(folder: Path, _: pytest.FixtureRequest) -> None:
    """`their_bags`, two attempts as another lab records them, and `their_lerobot`, a folder of its library."""
    spec = Spec(cameras=(CameraSpec("static", (120, 160)), CameraSpec("gripper", (120, 160))))
    for name in ("run1", "run2"):
        bag = record_synthetic(folder.parent / "ours", spec, 3.0, {}, success=2.0)
        write_foreign(bag, folder / "their_bags" / name)
    shutil.copytree(Path(__file__).parents[2] / "diwa_data/test/lerobot/v30", folder / "their_lerobot")


GIVEN: dict[str, Callable[[Path, pytest.FixtureRequest], None]] = {
    "Bags of another lab": their_bags,
    "A policy class": a_demo,
}
"""Section -> what puts the files of its reader into the folder."""


@dataclass(frozen=True)
class Block:
    """A fenced block of the page."""

    language: str
    words: str
    """The text behind the language of a fenced block."""
    text: str
    line: int
    """Number of its first line in the page."""
    above: str
    """The section's text before it."""

    @property
    def title(self) -> str:
        """The file that it is; empty for none."""
        named = re.fullmatch(r'title="([^"]+)"', self.words)
        return named[1] if named else ""

    @property
    def kind(self) -> str:
        """`file`, `sh`, `sh ros` or `text`; anything else is none of these."""
        return "file" if self.title else f"{self.language} {self.words}".strip()


def sections() -> dict[str, list[Block]]:
    """Heading -> its blocks."""
    found: dict[str, list[Block]] = {}
    fence, text, above, begun = None, "", "", 0
    for number, line in enumerate(PAGE.read_text().splitlines(keepends=True), start=1):
        opened = re.match(r"```(\w+) ?(.*)\n", line)
        if fence is None and line.startswith("## "):
            found[line[3:].strip()], above = [], ""
        elif fence is None and opened:
            fence, text, begun = opened, "", number + 1
        elif fence and line == "```\n":
            found[list(found)[-1]].append(Block(fence[1], fence[2], text, begun, above))
            fence = None
        elif fence:
            text += line
        else:
            above += line
    return found


def cases() -> Iterator[object]:
    """(section, whether its blocks for ROS 2 are worked off, too)."""
    for name, blocks in sections().items():
        yield pytest.param(name, False, id=name)
        if any(block.kind == "sh ros" for block in blocks):
            yield pytest.param(name, True, id=f"{name}, ROS 2", marks=pytest.mark.workspace)


def test_the_sections_stand_in_order_and_every_block_is_of_a_known_kind():
    assert tuple(sections()) == SECTIONS
    assert set(GIVEN) <= set(SECTIONS)
    for name, blocks in sections().items():
        for block in blocks:
            where = f"docs/extending.md:{block.line} in {name!r}"
            assert block.kind in ("file", "sh", "sh ros", "text"), where
            assert not block.title or f"`{block.title}`" in block.above, f"{where}: the text does not name the file"


@pytest.mark.parametrize(("name", "ros"), list(cases()))
def test_a_section_works_as_it_is_printed(name, ros, tmp_path, request):
    folder = tmp_path / "reader"
    folder.mkdir()
    if name in GIVEN:
        GIVEN[name](folder, request)
    with own_domain() if ros else nullcontext(0) as domain:
        environment = surroundings(tmp_path, domain)
        for block in sections()[name]:
            if block.title:
                path = folder / block.title
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
            elif block.kind == "sh" or (ros and block.kind == "sh ros"):
                run(block, folder, environment)


def own_domain():
    """A ROS domain that no other test uses."""
    return importlib.import_module("diwa_data.testing.ros").own_domain()


def surroundings(folder: Path, domain: int) -> dict[str, str]:
    """The environment of the commands: `diwa` and `pip` are in `folder/bin`, what `pip` installs in `folder/site`."""
    commands, site = folder / "bin", folder / "site"
    commands.mkdir()
    site.mkdir()
    quietly = f"'--quiet', '--no-index', '--no-deps', '--no-build-isolation', '--target', {str(site)!r}"
    scripts = {
        "diwa": "from diwa_cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n",
        "pip": f"import runpy\nsys.argv += [{quietly}]\nrunpy.run_module('pip', run_name='__main__')\n",
    }
    for command, text in scripts.items():
        (commands / command).write_text(f"#!{sys.executable}\nimport sys\n{text}")
        (commands / command).chmod(0o755)
    return os.environ | {
        "PATH": f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{site}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"),
        "DIWA_HOME": str(folder / "home"),
        "ROS_DOMAIN_ID": str(domain),
    }


def run(block: Block, folder: Path, environment: dict[str, str]) -> None:
    """Run a block of commands; what it leaves running is ended with it."""
    command = ["bash", "-eo", "pipefail", "-c", block.text]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"docs/extending.md:{block.line}\n{block.text}\n{said[-3000:]}"
