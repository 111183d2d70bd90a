"""CALVIN's own environment object, made from its package's settings or those of its data."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from diwa_data.errors import DiwaError
from diwa_data.spec import CALVIN
from diwa_sim.calvin.config import CalvinConfig

INSTALL = 'git clone https://github.com/mees/calvin_env && pip install -e calvin_env "opencv-python<5"'
RENDERED = ".hydra/merged_config.yaml"
"""Scene and cameras with which the data of a folder were rendered."""


def make_calvin(config: CalvinConfig) -> Any:
    """CALVIN's own environment object, with the static and the gripper camera.

    What its packages print at their start is left out. Raises `DiwaError` with the line that installs it where
    `calvin_env` is missing or does not start.
    """
    with _quiet():
        package, hydra, omegaconf = (_imported(name) for name in ("calvin_env", "hydra", "omegaconf"))
        _imported("calvin_env.envs.play_table_env")
        if config.data:
            path = Path(config.data) / RENDERED
            if not path.is_file():
                raise DiwaError(f"{path} is missing: name a folder of CALVIN's data, such as task_D_D/validation")
            settings = omegaconf.OmegaConf.load(path)
        else:
            settings = _shipped(hydra, Path(package.__file__).parents[1] / "conf")
        wanted = [camera.name for camera in CALVIN.cameras]
        for name in [name for name in settings.cameras if name not in wanted]:
            del settings.cameras[name]
        settings.env.use_egl = config.egl
        try:
            made = hydra.utils.instantiate(settings.env, show_gui=False, use_vr=False, use_scene_info=False)
        except (Exception, SystemExit) as error:  # of its own code, PyBullet's and Git's
            why = str(error.__cause__ or error) or "it gave up"
            cure = "draw on the CPU with --calvin.no-egl, if it is the graphics; else install it again: "
            cure = f"{cure if config.egl else ''}{INSTALL}"
            raise DiwaError(f"CALVIN's environment does not start ({why}): {cure}") from error
    made.close = partial(_disconnect, made.p, made.cid)
    return made


def _disconnect(server: Any, client: int) -> None:
    """In place of CALVIN's own, which prints a line whenever it is called, also by its destructor."""
    if server.isConnected(physicsClientId=client):
        server.disconnect(physicsClientId=client)


def _shipped(hydra: Any, folder: Path) -> Any:
    """The settings in `calvin_env`'s own repository: scene D."""
    if not folder.is_dir():
        raise DiwaError(f"calvin_env has no {folder}: install it from its repository: {INSTALL}")
    with hydra.initialize_config_dir(str(folder)):
        return hydra.compose("config_data_collection", overrides=["cameras=static_and_gripper"])


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DiwaError(f"CALVIN's environment cannot be imported ({error}): {INSTALL}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Lines that libraries print inside are lost, those of libraries in C too."""
    with open(os.devnull, "w") as nowhere, ExitStack() as restored:
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            stream.flush()
            restored.callback(_put_back, os.dup(number), number)
            restored.callback(stream.flush)
            os.dup2(nowhere.fileno(), number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield


def _put_back(copy: int, number: int) -> None:
    """Make the file descriptor `number` again what it was when `copy` was made of it."""
    os.dup2(copy, number)
    os.close(copy)
