"""Pages of the site that do not lie in docs/: the README as the home page, CONTRIBUTING and the others of its kind.

Links between all of them are written for a code host, where they work too.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[2]
HOME = "index.md"
ALSO = {"README.md": HOME} | {
    name: name
    for name in (
        "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "RELEASING.md", "docker/README.md",
        "examples/README.md", "CITATION.cff", "LICENSE",
    )
}  # fmt: skip
"""File of the repository -> its place on the site."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]+)?\)")


def on_config(config: MkDocsConfig) -> None:
    """Anchors as a code host makes them."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Puts the files beside docs/ on the site."""
    for name, uri in ALSO.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are on the site; what is a part of the repository alone keeps its words and loses its link."""
    source = {uri: name for name, uri in ALSO.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    up = "../" * page.file.src_uri.count("/")

    def on_site(match: re.Match[str]) -> str:
        shown, text, target, anchor = match.groups()
        path = (ROOT / source).parent.joinpath(target).resolve()
        if not path.is_relative_to(ROOT) or not path.exists():
            return match[0]  # mkdocs says that it is dead
        name = path.relative_to(ROOT).as_posix()
        uri = ALSO.get(name, name.removeprefix("docs/"))
        if not files.get_file_from_path(uri):
            return f"{text} (`{name}`)"
        return f"{shown}[{text}]({up}{uri}{anchor or ''})"

    markdown = LINK.sub(on_site, markdown).replace("```sh ros\n", "```sh\n")  # words that only a test reads
    return re.sub(r"(\d\]|nan\]) \[", r"\1 \\[", markdown)  # two lists of numbers are not reference
