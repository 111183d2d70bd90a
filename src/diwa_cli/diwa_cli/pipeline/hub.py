"""`diwa push` and `diwa pull`: skill bundles, checkpoints and datasets on the Hugging Face Hub.

A repository holds one of them: the files that `diwa` wrote and no others, and a page made of what `diwa inspect` says.
What is pulled is checked by its checksums and read once before it gets its name. Nothing is ever unpickled.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diwa_cli.pipeline.bundles import bundle_card, bundles_in
from diwa_cli.run_folder import in_a_line
from diwa_data import __version__
from diwa_data.dataset.dataset import load_dataset
from diwa_data.dataset.file import is_dataset, is_sealed
from diwa_data.errors import DiwaError, how_to_install
from diwa_data.files import atomic_path, read_object, require_new
from diwa_data.manifest import CHECKPOINT_FILES, MANIFEST
from diwa_data.skills import skill_name
from diwa_data.view.inspect import inspect_path
from diwa_deploy.bundle import BASE, CARD, PARTS, load_bundle, skills_folder, write_bundle
from diwa_learning.core.checkpoint import load_checkpoint, read_header

Kind = Literal["skill", "checkpoint", "dataset"]
PAGE = "README.md"
BESIDE = {PAGE, ".gitattributes"}
"""Files of a repository that belong to the Hub."""
CHECKPOINT = {*CHECKPOINT_FILES, MANIFEST}
SKILL = {CARD, MANIFEST, *(f"{part}/{name}" for part in PARTS for name in CHECKPOINT)}
WITH_BASE = {f"{BASE}/{name}" for name in CHECKPOINT}
PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy")
DATASETS = "datasets/"
"""Before the name of a repository that holds a dataset."""
MAIN = "main"
"""The branch that every repository has."""

PAGE_TEXT = """---
library_name: diwa-ros2
{task}
tags: [diwa, robotics, world-model]
---

# {title}

{about}

```
{card}
```

## How to use it

With [DiWA on ROS 2](https://arxiv.org/abs/2508.03645) (`diwa-ros2` {version} or newer):

```sh
{use}
```

`diwa pull` checks the SHA-256 checksum of every file. Weights are safetensors; nothing is unpickled.
"""
ABOUT: dict[Kind, tuple[str, str]] = {
    "skill": ("pipeline_tag: robotics", "A robot skill: world model, diffusion policy and success classifier."),
    "checkpoint": ("pipeline_tag: robotics", "A checkpoint of robot learning inside a world model."),
    "dataset": ("task_categories: [robotics]", "Recordings of a robot as one HDF5 file, in the format of `diwa-ros2`."),
}
"""Kind -> its task in the Hub's words, and a sentence."""


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub."""

    name: str
    """USER/NAME."""
    type: Literal["model", "dataset"]

    @classmethod
    def parse(cls, text: str) -> Repository:
        """That of `USER/NAME` or `datasets/USER/NAME`. Raises `DiwaError` if it can be none."""
        name = text.removeprefix(DATASETS)
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) or re.search(r"--|\.\.|[.-]$", name):
            raise DiwaError(f"{text!r} names no repository on the Hub: write USER/NAME, or {DATASETS}USER/NAME")
        return cls(name, "dataset" if text.startswith(DATASETS) else "model")

    def __str__(self) -> str:
        return f"{DATASETS if self.type == 'dataset' else ''}{self.name}"


@dataclass(frozen=True)
class Package:
    """Files that go to the Hub."""

    kind: Kind
    title: str
    card: str
    """The output of `diwa inspect`."""
    files: dict[str, Path]
    """Path in the repository -> file."""


def push(path: Path, to: str, revision: str = MAIN, public: bool = False) -> str:
    """Put the bundle, checkpoint or dataset at `path` into a repository; the address of the commit.

    A repository that is new is private unless `public`. It is refused if it holds anything else than a package of the
    same kind, which is replaced. Raises `DiwaError`.
    """
    hub, asked = import_hub(), Repository.parse(to)
    with packed(path) as package:
        repository = Repository(asked.name, "dataset" if package.kind == "dataset" else "model")
        if to.startswith(DATASETS) and repository != asked:
            raise DiwaError(f"{path} is a {package.kind}, not a dataset: push it to {repository}")
        page = page_of(package, repository).encode()
        with errors_in_a_line(repository, revision):
            api = hub.HfApi(library_name="diwa-ros2", library_version=__version__)
            where: dict[str, Any] = {"repo_id": repository.name, "repo_type": repository.type}
            api.create_repo(**where, private=not public, exist_ok=True)
            if revision != MAIN:
                api.create_branch(**where, branch=revision, exist_ok=True)
            info = api.repo_info(**where, revision=revision)
            there = {file.rfilename for file in info.siblings or ()} - BESIDE
            if there and (kind := kind_of(there, str(repository))) != package.kind:
                raise DiwaError(f"{repository} holds a {kind}, and {path} is a {package.kind}: choose another name")
            operations = [hub.CommitOperationAdd(PAGE, page)]
            operations += [hub.CommitOperationAdd(name, str(file)) for name, file in package.files.items()]
            operations += [hub.CommitOperationDelete(name) for name in sorted(there - set(package.files))]
            message = f"{package.title}, by diwa push"
            done = api.create_commit(
                **where, operations=operations, commit_message=message, revision=revision, parent_commit=info.sha
            )
    return str(done.commit_url)


def pull(name: str, out: Path | None = None, revision: str = MAIN) -> tuple[Path, Kind, str]:
    """Fetch the package of a repository to `out`; where it is, its kind, and the commit.

    A skill goes to the folder of installed skills unless `out` is given. What is at `out` is never replaced. Raises
    `DiwaError`; then nothing is there.
    """
    hub, repository = import_hub(), Repository.parse(name)
    if out:
        require_new(out)
    wanted = sorted(SKILL | WITH_BASE | CHECKPOINT | {"*.h5"})
    with errors_in_a_line(repository, revision):
        api = hub.HfApi(library_name="diwa-ros2", library_version=__version__)
        where: dict[str, Any] = {"repo_id": repository.name, "repo_type": repository.type, "revision": revision}
        if not hub.constants.HF_HUB_OFFLINE:
            kind = kind_of({file.rfilename for file in api.repo_info(**where).siblings or ()}, str(repository))
            require_place(kind, out, repository)
        copy = Path(api.snapshot_download(**where, allow_patterns=wanted))
    files = {str(file.relative_to(copy)): file for file in sorted(copy.rglob("*")) if file.is_file()}
    kind = kind_of(files, str(repository))
    require_place(kind, out, repository)
    target = out or skills_folder() / skill_of(copy, repository)
    require_new(target)
    with atomic_path(target) as temporary:
        for part, file in files.items():
            if part not in BESIDE:
                place = temporary if kind == "dataset" else temporary / part
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
        try:
            require_whole(temporary, kind)
        except DiwaError as error:
            why = str(error).replace(str(temporary), str(repository))
            cache = copy.parents[1]
            raise DiwaError(f"{repository} is refused: {why} (this machine's copy to delete is {cache})") from error
    return target, kind, copy.name


def require_place(kind: Kind, out: Path | None, repository: Repository) -> None:
    """Raise `DiwaError` if only the user knows where a package goes, and has not said so."""
    if kind != "skill" and out is None:
        raise DiwaError(f"{repository} holds a {kind}: say with --out where it goes")


def skill_of(folder: Path, repository: Repository) -> str:
    """The skill of a bundle that has not been checked yet."""
    skill = read_object(folder / CARD, f"ask the author of {repository}").get("skill")
    return skill_name(skill if isinstance(skill, str) else "")


def kind_of(names: Collection[str], where: str) -> Kind:
    """The kind of package that has files of these `names`, without others. Raises `DiwaError` if it is none of ours."""
    names = set(names) - BESIDE
    if pickled := sorted(name for name in names if name.endswith(PICKLED)):
        raise DiwaError(f"{where} holds {pickled[0]}: pickled files run code when they are loaded and are refused")
    recordings = {name for name in names if re.fullmatch(r"[\w-][\w.-]*\.h5", name)}
    kind: Kind = "skill" if CARD in names else "checkpoint" if recordings != names else "dataset"
    needed = {"skill": SKILL, "checkpoint": CHECKPOINT, "dataset": set(sorted(recordings)[:1])}[kind]
    if kind == "skill" and names & WITH_BASE:
        needed = needed | WITH_BASE
    if not names or not names & needed:
        raise DiwaError(f"{where} holds no skill bundle, checkpoint or dataset of `diwa push`")
    if other := sorted(names - needed):
        raise DiwaError(f"{where} holds {other[0]}, which is not a file of a {kind}: choose another repository")
    if missing := sorted(needed - names):
        raise DiwaError(f"{where} lacks {missing[0]}: it is not a {kind} of `diwa push`")
    return kind


def require_whole(path: Path, kind: Kind) -> None:
    """Raise `DiwaError` unless a package can be loaded, has all its checksums, and is what they say."""
    if kind == "dataset":
        if not is_sealed(path):
            raise DiwaError(f"{path} has no checksum: `diwa seal` adds it")
        load_dataset(path, images=False)
    elif kind == "checkpoint":
        load_checkpoint(path, read_header(path)["phase"])
    else:
        bundle = load_bundle(path)
        key = load_checkpoint(bundle.world_model, "world_model").hash
        for part in (bundle.policy, bundle.reward, *([path / BASE] if (path / BASE).is_dir() else [])):
            load_checkpoint(part, read_header(part)["phase"], None, key)


@contextmanager
def packed(path: Path) -> Iterator[Package]:
    """The package of what is at `path`, which is checked first. Raises `DiwaError` if that cannot be pushed."""
    if not path.exists():
        raise DiwaError(f"{path} does not exist: name a skill bundle, checkpoint or dataset")
    if is_dataset(path):
        require_whole(path, "dataset")
        kind_of([path.name], str(path))
        card = inspect_path(path).replace(str(path), path.name)
        yield Package("dataset", f"Recordings {path.stem}", card, {path.name: path})
    elif (path / CARD).is_file():
        with tempfile.TemporaryDirectory() as folder:
            whole = load_bundle(path)  # its world model may lie beside it, and goes with it
            parts = {"world_model": whole.world_model, "policy": whole.policy, "reward": whole.reward}
            parts |= {BASE: path / BASE} if (path / BASE).is_dir() else {}
            copy = write_bundle(Path(folder) / whole.skill, parts, whole.card).path
            require_whole(copy, "skill")
            card = bundle_card(load_bundle(copy)).replace(f"{folder}/", "")
            yield Package("skill", f"Skill {whole.skill}", card, _files(copy))
    elif (path / "config.json").is_file():
        phase = read_header(path)["phase"].replace("_", " ")
        if not (path / MANIFEST).is_file():
            raise DiwaError(f"{path} has no checksums: `diwa seal {path}` adds them")
        require_whole(path, "checkpoint")
        card = inspect_path(path).replace(str(path), path.name)
        yield Package("checkpoint", f"Checkpoint of a {phase}", card, {name: path / name for name in CHECKPOINT})
    elif path.is_dir() and (bundles := bundles_in(path)):
        raise DiwaError(f"{path} holds {len(bundles)} skill bundles: push one of them, such as {bundles[0].path}")
    else:
        raise DiwaError(f"{path} is not a skill bundle, checkpoint or dataset: `diwa inspect {path}` says what it is")


def _files(folder: Path) -> dict[str, Path]:
    return {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}


def page_of(package: Package, repository: Repository) -> str:
    """The page of a repository."""
    task, about = ABOUT[package.kind]
    skill = package.title.removeprefix("Skill ")
    use = {
        "skill": f"diwa pull {repository}\ndiwa run-skill --skill {skill} --video {skill}.mp4",
        "checkpoint": f"diwa pull {repository} --out checkpoint",
        "dataset": f"diwa pull {repository} --out {next(iter(package.files))}",
    }[package.kind]
    words = {"title": package.title, "about": about, "task": task, "card": package.card, "use": use}
    return PAGE_TEXT.format(**words, version=__version__)


def import_hub() -> Any:
    """The package huggingface_hub. Raises `DiwaError` if it is not installed."""
    try:
        import huggingface_hub.constants
    except ModuleNotFoundError as error:
        raise DiwaError(f"the Hub needs the package huggingface_hub: {how_to_install('hub')}") from error
    return huggingface_hub


@contextmanager
def errors_in_a_line(repository: Repository, revision: str) -> Iterator[None]:
    """Turn what the Hub, its package or the network say into a `DiwaError` of one line, with a cure."""
    try:
        yield
    except DiwaError:
        raise
    except Exception as error:  # requests', httpx's, huggingface_hub's or the system's
        raise DiwaError(f"{repository}: {_why(error, revision)}") from error


def _why(error: Exception, revision: str) -> str:
    names = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "OfflineModeIsEnabled" in names:
        return "HF_HUB_OFFLINE is set: unset it to reach the Hub"
    if import_hub().constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and this machine has no copy of it: unset it"
    if "RevisionNotFoundError" in names:
        return f"it has no revision {revision!r}: name a branch, tag or commit of it"
    if "RepositoryNotFoundError" in names:
        return f"it is not there, or your token may not see it; a dataset's name begins with {DATASETS}"
    if status in (401, 403):
        return "the Hub refuses your token: make one that may write, then run `hf auth login` or set HF_TOKEN"
    if status in (409, 412):
        return "somebody else has pushed to it meanwhile: look at it, then run this again"
    return f"the Hub does not answer as it should ({in_a_line(error)[:200]}): is the network up?"
