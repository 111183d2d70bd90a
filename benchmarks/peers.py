"""Clones of public implementations, whose own modules benchmarks import and measure; nothing of theirs is copied."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

DISTRIBUTIONS = {"hydra": "hydra-core", "pytorch_lightning": "pytorch-lightning"}
"""Packages that pip knows under another name."""


@dataclass(frozen=True)
class Peer:
    """A public implementation: where it is published, and a file by which a clone of it is known."""

    url: str
    commit: str
    """The commit that our figures are of."""
    marker: str

    def folder(self, description: str | None) -> Path:
        """The clone that the command line names."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--peer", type=Path, required=True, metavar="DIR", help=f"a clone of {self.url}")
        folder = parser.parse_args().peer.resolve()
        if not (folder / self.marker).is_file():
            raise SystemExit(f"{folder} is no clone of {self.url}: it holds no {self.marker}")
        return folder

    @contextmanager
    def modules(self, folder: Path) -> Iterator[None]:
        """Import the clone's modules within; ends with one line that names a package which they need and we lack."""
        sys.path.insert(0, str(folder))
        try:
            yield
        except ModuleNotFoundError as error:
            missing = (error.name or str(error)).split(".")[0]
            if missing in {path.name for path in folder.iterdir()}:
                raise SystemExit(f"{folder} is another version of {self.url} than {self.commit}: {error}") from error
            package = DISTRIBUTIONS.get(missing, missing)
            raise SystemExit(f"{self.url} needs a package that is not installed: pip install {package}") from error


LUMOS = Peer("https://github.com/nematoli/lumos", "cc9272f", "lumos/world_models/dreamer_v2.py")
DPPO = Peer("https://github.com/irom-lab/dppo", "7b10df6", "model/diffusion/diffusion_ppo.py")
