"""HTML of a page that needs nothing but itself: pictures and videos are inside, nothing is fetched."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml", ".mp4": "video/mp4"}

STYLE = """
:root { --ink: #24313c; --soft: #5d6b77; --line: #e1e6ea; --page: #f6f7f8; --card: #fff;
  --base: #6f7f8d; --tuned: #0b7a75; --dream: #b8651a; color-scheme: light; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 1080px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 44px; }
.over { color: var(--soft); letter-spacing: .04em; font-size: .86rem; margin: 0; }
h1 { font-size: clamp(1.7rem, 4.2vw, 2.7rem); line-height: 1.15; margin: .25em 0 .3em; letter-spacing: -.015em; }
h1 span { white-space: nowrap; } h1 .base { color: var(--base); } h1 .tuned { color: var(--tuned); }
h1 .arrow { color: #b4bec6; }
.lead { font-size: 1.06rem; max-width: 46em; margin: 0 0 1.4em; }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; border-top: 1px solid var(--line); padding: 12px 0 0;
  font-size: .9rem; }
nav a { color: var(--tuned); text-decoration: none; } nav a:hover { text-decoration: underline; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 22px 26px 24px;
  margin: 22px 0; }
h2 { font-size: 1.28rem; margin: 0 0 .2em; letter-spacing: -.01em; }
h3 { font-size: .98rem; margin: 1.5em 0 .4em; }
.about { color: var(--soft); max-width: 50em; margin: 0 0 1em; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0 0 18px; }
.number { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px 16px; }
.number b { display: block; font-size: 1.5rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.number span { color: var(--soft); font-size: .85rem; }
.columns { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(400px, 100%), 1fr)); gap: 18px 30px;
  align-items: start; }
figure { margin: 0; } figure.drawing { max-width: 760px; }
figure img, figure video { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .86rem; margin-top: .45em; }
.scroll { overflow-x: auto; } .scroll img { width: auto; max-width: none; }
.strip img { image-rendering: pixelated; width: 100%; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; margin: 0 0 16px; }
.pair video { border-radius: 8px; background: #26303a; }
.tag { display: inline-block; border-radius: 99px; padding: 0 .65em; font-size: .8rem; background: #eceff1;
  color: var(--soft); }
.tag.yes { background: #dff1ea; color: #0a6156; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .38em .9em .38em 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.n, th.n { text-align: right; }
pre { background: #f3f5f6; border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere;
  font: .82rem/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; margin: .4em 0 1em; }
code { font: .9em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
details { border-top: 1px solid var(--line); padding: .55em 0; } summary { cursor: pointer; font-weight: 600; }
.missing { color: var(--soft); border: 1px dashed #c4ccd2; border-radius: 8px; padding: 10px 14px; margin: .4em 0; }
footer { color: var(--soft); font-size: .86rem; padding-bottom: 50px; }
@media (max-width: 560px) { section { padding: 16px; } .pair { gap: 8px; } }
@media print { body { background: #fff; } section { break-inside: avoid; border: 0; } nav { display: none; } }
"""


def page(title: str, header: str, sections: Iterable[str], footer: str) -> str:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f"<body><header>{header}</header>\n<main>{''.join(sections)}</main>\n<footer>{footer}</footer></body></html>\n"
    )


def section(key: str, title: str, about: str, *parts: str) -> str:
    """One card of the page; `about` is HTML."""
    return f'<section id="{key}"><h2>{escape(title)}</h2><p class="about">{about}</p>{"".join(parts)}</section>\n'


def data_uri(path: Path) -> str:
    """A file as a data: address."""
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def svg_figure(svg: str, alt: str, caption: str = "") -> str:
    """A drawing with what it shows (`alt`, text) and a caption (HTML)."""
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
    return _figure(f'<img src="{source}" alt="{escape(alt)}">', caption, "drawing")


def image_figure(path: Path, alt: str, caption: str = "") -> str:
    """A picture file."""
    return _figure(f'<img src="{data_uri(path)}" alt="{escape(alt)}">', caption, "strip")


def video_figure(path: Path, label: str, caption: str) -> str:
    """A video that plays by itself, silently, again and again."""
    attributes = 'autoplay loop muted playsinline controls preload="auto"'
    return _figure(f'<video src="{data_uri(path)}" {attributes} aria-label="{escape(label)}"></video>', caption)


def _figure(content: str, caption: str, kind: str = "") -> str:
    caption = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class="{kind}">{content}{caption}</figure>'


def columns(*parts: str) -> str:
    """Side by side where the window is wide enough."""
    return f'<div class="columns">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def numbers(values: Sequence[tuple[str, str]]) -> str:
    """Big numbers, each with what it is."""
    cells = (f'<div class="number"><b>{escape(value)}</b><span>{escape(text)}</span></div>' for value, text in values)
    return f'<div class="numbers">{"".join(cells)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Plain text cells; columns after the first are aligned right if all their cells begin with a digit or sign."""
    rows = [list(row) for row in rows]
    numeric = [
        index > 0 and all(row[index][:1] in "+-−.0123456789" for row in rows) for index in range(len(head))
    ]  # fmt: skip
    kinds = [' class="n"' if right else "" for right in numeric]
    top = "".join(f"<th{kind}>{escape(cell)}</th>" for kind, cell in zip(kinds, head, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{escape(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def code(text: str) -> str:
    """Preformatted text."""
    return f"<pre>{escape(text)}</pre>"


def details(title: str, content: str) -> str:
    """Something to unfold."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def missing(what: str, command: str) -> str:
    """Says that a part of the run is not there, and which command makes it."""
    return f'<p class="missing">{escape(what)} is not there: <code>{escape(command)}</code> makes it.</p>'
