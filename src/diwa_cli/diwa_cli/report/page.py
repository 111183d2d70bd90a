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

from diwa_data import __version__

TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml", ".mp4": "video/mp4"}


class Figure(NamedTuple):
    """A picture: its data: address, what it shows in words, and a caption."""

    src: str
    alt: str
    caption: str = ""


def signed(value: float, digits: int = 0) -> str:
    """A number with its sign, as print has it: a real minus, and no sign at zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def span(interval: Sequence[float]) -> str:
    """An interval in words."""
    return f"{interval[0]:.1f} to {interval[1]:.1f}"


def signed_span(interval: Sequence[float], digits: int = 1) -> str:
    """An interval of differences in words."""
    return f"{signed(interval[0], digits)} to {signed(interval[1], digits)}"


TEMPLATES = Environment(
    loader=PackageLoader("diwa_cli"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.filters |= {"signed": signed, "span": span, "signed_span": signed_span}


def render(template: str, **contents: Any) -> str:
    """A template filled with `contents`; half a surrogate pair, which no file can hold, becomes a question mark."""
    style = TEMPLATES.loader.get_source(TEMPLATES, "style.css")[0]  # type: ignore[union-attr]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    csp = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    text = TEMPLATES.get_template(template).render(csp=csp, style=style, version=__version__, **contents)
    return text.encode(errors="replace").decode()


def data_uri(path: Path) -> str:
    """A file as a data: address."""
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def drawing(svg: str, alt: str, caption: str = "") -> Figure:
    """A drawing as SVG text, with what it shows."""
    return Figure(f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}", alt, caption)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, a line a row, without a newline at the end."""
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
