"""HTML pages that need nothing but themselves: jinja2 templates that escape every text; pictures and videos are inside.

A page's content security policy lets in its own style sheet and data: addresses, and nothing else: no script runs.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from diwa_cli.run_folder import write_text
from diwa_data import __version__


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A line a row, without a newline at the end."""
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml", ".mp4": "video/mp4"}

TEMPLATES = Environment(
    loader=PackageLoader("diwa_cli"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


class Figure(NamedTuple):
    """A picture: its data: address, what it shows in words, and a caption."""

    src: str
    alt: str
    caption: str = ""


class Table(NamedTuple):
    """Plain text cells under a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def numeric(self) -> list[bool]:
        """Columns to align right: those after the first whose cells all begin with a digit or sign."""
        return [i > 0 and all(row[i][:1] in "+-−.0123456789" for row in self.rows) for i in range(len(self.head))]


def write_page(path: Path, template: str, **contents: Any) -> Path:
    """Fill a template and write it to `path`, whole or not at all; `path`."""
    write_text(path, render(template, **contents))
    return path


def render(template: str, **contents: Any) -> str:
    """A template filled with `contents`; half a surrogate pair, which no file can hold, becomes a question mark."""
    style = TEMPLATES.loader.get_source(TEMPLATES, "style.css")[0]  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    csp = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    page = TEMPLATES.get_template(template)
    text = page.render(csp=csp, style=style, version=__version__, **contents)
    return text.encode(errors="replace").decode()


def data_uri(path: Path) -> str:
    """A file as a data: address."""
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def drawing(svg: str, alt: str, caption: str = "") -> Figure:
    """A drawing as SVG text, with what it shows."""
    return Figure(f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}", alt, caption)
