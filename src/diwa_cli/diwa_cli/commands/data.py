"""The commands that make and look at data: arguments in, one function call."""

import math
from contextlib import closing
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from diwa_cli.arguments import Flags, NewFolder, OutputFile, call, run_job, split_source, wait_for_enter


def record(args: list[str]) -> int:
    from diwa_sim.operator.record import RecordJob

    return run_job(RecordJob, args)


def calibrate(args: list[str]) -> int:
    from diwa_data.files import require_output
    from diwa_data.teleop import vive as device
    from diwa_data.teleop.devices import ViveConfig

    def command(serial: str = "", role: Literal["left", "right"] = "right", calibration: str = "") -> None:
        """Find how the VIVE's tracking room lies to the robot: hold the controller still, then move it along robot +x.

        The phone or headset of `--device webxr` needs none of this: its page has a button for it.

        Args:
            serial: Serial number of the controller (LHR-...); empty takes the one of the hand.
            role: Hand that the controller is assigned to in SteamVR.
            calibration: File to write; empty is $DIWA_HOME/vive.json (default ~/.diwa).
        """
        config = ViveConfig(serial, role, calibration)
        require_output(device.calibration_path(config))
        with closing(device.Vive(config, device.import_openvr())) as vive:
            found = device.calibrate(vive, device.calibration_path(config), wait_for_enter)
        print(f"yaw {math.degrees(found.yaw):.1f} degrees from a baseline of {100 * found.baseline:.1f} cm")
        print(f"stored in {device.calibration_path(config)}")

    return call(command, "calibrate", args)


def inspect(args: list[str]) -> int:
    from diwa_cli.pipeline.bundles import bundle_card, bundles_in
    from diwa_data.view.inspect import inspect_path, save_contact_sheet

    def command(path: Positional[Path], thumbnails: OutputFile | None = None) -> None:
        """Print a card of a bag, a dataset, a checkpoint or a skill bundle, or of a folder of bags or bundles.

        Args:
            path: What to look at.
            thumbnails: PNG file to draw a bag's frames into, with their times.
        """
        if thumbnails:
            save_contact_sheet(path, thumbnails)
        bundles = bundles_in(path)
        print("\n\n".join(map(bundle_card, bundles)) if bundles else inspect_path(path))
        if thumbnails:
            print(f"thumbnails: {thumbnails}")

    return call(command, "inspect", args)


def view(args: list[str]) -> int:
    from diwa_data.view.rerun import save_view, serve_view, show_view

    def command(
        path: Positional[Path], episode: str | None = None, save: OutputFile | None = None, serve: bool = False
    ) -> None:
        """Open an episode in the Rerun viewer: images, poses, lead, gripper, controller, events, image gaps.

        Args:
            path: A bag, a folder of bags or a dataset.
            episode: Which one of a folder or dataset, such as 000003; the first unless named.
            save: Rerun file (.rrd) to write instead of opening a window.
            serve: Serve it to web browsers instead, until Ctrl-C (ports 9090 and 9876, open to the network).
        """
        if save:
            save_view(path, episode, save)
            print(f"saved: {save} ({save.stat().st_size / 1e6:.1f} MB), open it with 'rerun {save}'")
        elif serve:
            serve_view(path, episode)
        else:
            show_view(path, episode)

    return call(command, "view", args)


def annotate(args: list[str]) -> int:
    from diwa_data.recording.recover import annotate as mark

    def command(path: Positional[Path], success: float | None = None, never: bool = False) -> None:
        """Show, set or take back the success mark of a recorded episode; nothing else in it changes.

        Datasets that were built from it before do not notice; the next `diwa build-dataset` does.

        Args:
            path: A bag.
            success: Seconds from the episode's start at which the skill was done (`diwa inspect --thumbnails`).
            never: It was not done: take the mark back.
        """
        print(mark(path, success, never))

    return call(command, "annotate", args)


def recover(args: list[str]) -> int:
    from diwa_data.recording.recover import recover as salvage

    def command(path: Positional[Path]) -> None:
        """Salvage the whole messages of truncated or unfinished bags.

        Args:
            path: A bag, or a folder of them.
        """
        for episode in salvage(path):
            print(f"recovered {episode}")

    return call(command, "recover", args)


def build_dataset(args: list[str]) -> int:
    from diwa_cli.pipeline.ray import BuildOnRayJob

    return run_job(BuildOnRayJob, args)


def export_lerobot(args: list[str]) -> int:
    from diwa_data.lerobot.export import export_lerobot as export

    def command(dataset: Positional[Path], out: NewFolder, repo_id: str = "", video: bool = False) -> None:
        """Export a dataset to LeRobot's format v3.0, so that its policies train on our recordings.

        Args:
            dataset: HDF5 file.
            out: Folder to write; it must not exist.
            repo_id: Name on the Hugging Face hub, user/name, for the card; local/<name of --out> unless given.
            video: Keep images as H.264 video, smaller and lossy, instead of exact PNG images.
        """
        done = export(dataset, out, repo_id, video)
        size = f"{done.size / 1e6:,.1f} MB"
        print(f"{out}: {done.episodes} episodes, {done.frames:,} frames, {size}; tasks: {', '.join(done.tasks)}")
        print(f"load it with LeRobotDataset({done.repo_id!r}, root={str(out)!r})")

    return call(command, "export-lerobot", args)


def import_calvin(args: list[str]) -> int:
    from diwa_data.calvin.convert import CalvinImportConfig
    from diwa_data.calvin.convert import import_calvin as bring_in

    source, rest = split_source(args)
    defaults = source.section(CalvinImportConfig, "import_calvin")

    def command(folder: Positional[Path], out: OutputFile, config: Flags[CalvinImportConfig] = defaults) -> None:
        """Import CALVIN's data as a dataset: all play of a folder, or with --skill demonstrations of one skill.

        Args:
            folder: Folder with episode_*.npz, such as task_D_D/training.
            out: HDF5 file to write; an interrupted import into it continues.
        """
        bring_in(folder, out, config)

    return call(command, "import-calvin", rest)


def replay(args: list[str]) -> int:
    from diwa_cli.evaluation.run_skill import ReplayJob

    return run_job(ReplayJob, args)
