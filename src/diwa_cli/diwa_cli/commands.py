"""Commands that are not jobs: arguments in, one function call. `main.py` names the class of each job."""

import math
from contextlib import closing
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from diwa_cli.arguments import NewFile, NewFolder, OutputFile, call, wait_for_enter


def calibrate(args: list[str]) -> int:
    from diwa_data.files import require_output
    from diwa_data.teleop import vive as device
    from diwa_data.teleop.devices import ViveConfig

    def command(serial: str = "", role: Literal["left", "right"] = "right", calibration: str = "") -> None:
        """Find the robot's forward direction in the VIVE's tracking room.

        Hold the controller still, then move it along the robot's +x, as the questions say. A phone or headset
        (`--device webxr`) does not need this: its page has a button.

        Args:
            serial: Serial number of the controller (LHR-...); empty = the one of the hand in --role.
            role: Hand that the controller is assigned to in SteamVR.
            calibration: File to write; empty = $DIWA_HOME/vive.json (default ~/.diwa).
        """
        config = ViveConfig(serial, role, calibration)
        require_output(device.calibration_path(config))
        with closing(device.Vive(config, device.import_openvr())) as vive:
            found = device.calibrate(vive, device.calibration_path(config), wait_for_enter)
        print(f"yaw {math.degrees(found.yaw):.1f} degrees from a baseline of {100 * found.baseline:.1f} cm")
        print(f"stored in {device.calibration_path(config)}")

    return call(command, "calibrate", args)


def inspect(args: list[str]) -> int:
    from diwa_data.errors import DiwaError
    from diwa_data.foreign.suggest import suggest_mapping as suggest_bag_mapping
    from diwa_data.foreign.suggest import write_suggestion
    from diwa_data.lerobot.card import lerobot_card
    from diwa_data.lerobot.folder import is_lerobot
    from diwa_data.lerobot.suggest import suggest_lerobot_mapping
    from diwa_data.view.inspect import inspect_path, save_contact_sheet

    def command(
        path: Positional[Path],
        thumbnails: OutputFile | None = None,
        suggest_mapping: bool = False,
        out: NewFile | None = None,
    ) -> None:
        """Summarise a bag, dataset, checkpoint, skill bundle or LeRobot dataset, or a folder of them.

        Args:
            path: File or folder to look at.
            thumbnails: PNG file to write, with a bag's frames and their times.
            suggest_mapping: Draft a mapping file instead, for another lab's bag or a LeRobot dataset.
            out: File to write the draft to; it must not exist.
        """
        if (out and not suggest_mapping) or (thumbnails and suggest_mapping):
            raise DiwaError("--out needs --suggest-mapping, which cannot be combined with --thumbnails: leave one out")
        if suggest_mapping:
            lerobot = (suggest_lerobot_mapping, "import-lerobot FOLDER")
            suggest, then = lerobot if is_lerobot(path) else (suggest_bag_mapping, "build-dataset BAGS")
            print(write_suggestion(path, out, suggest, then) if out else suggest(path), end="")
            return
        if thumbnails:
            save_contact_sheet(path, thumbnails)
        print(_bundle_cards(path) or (lerobot_card if is_lerobot(path) else inspect_path)(path))
        if thumbnails:
            print(f"thumbnails: {thumbnails}")

    return call(command, "inspect", args)


def _bundle_cards(path: Path) -> str:
    """Cards of the skill bundles at `path`; empty if there are none, which is seen without the seconds of torch."""
    if not any(any(path.glob(pattern)) for pattern in ("card.json", "*/card.json")):
        return ""
    from diwa_cli.pipeline.bundles import bundle_card, bundles_in

    return "\n\n".join(map(bundle_card, bundles_in(path)))


def view(args: list[str]) -> int:
    from diwa_data.view.rerun import save_view, serve_view, show_view

    def command(
        path: Positional[Path], episode: str | None = None, save: OutputFile | None = None, serve: bool = False
    ) -> None:
        """Open an episode in the Rerun viewer: images, poses, lead, gripper, controller, events, image gaps.

        Args:
            path: A bag, a folder of bags or a dataset.
            episode: Episode of a folder or dataset, such as 000003; without it, the first.
            save: Rerun file (.rrd) to write, instead of opening a window.
            serve: Serve the viewer to web browsers until Ctrl-C (ports 9090 and 9876, open to the network).
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
    from diwa_data.view.annotate import Annotator, annotate_bag

    def command(
        path: Positional[Path],
        success: float | None = None,
        fail: float | None = None,
        never: bool = False,
        mapping: Path | None = None,
        terminal: bool = False,
        port: int = 0,
    ) -> None:
        """Mark recorded attempts as success or failure: on a page that plays their films, or one attempt by flags.

        Each mark is saved at once, beside the messages, which never change. Bags of other recorders get a file of marks
        beside them. Build a dataset again after marking: one that was built before does not have the new marks.

        Args:
            path: A bag, or a folder of bags.
            success: Mark success at this time, in seconds from the start of one bag; shows no page.
            fail: Mark failure at this time, in seconds from the start of one bag; shows no page.
            never: Remove the success mark of one bag; shows no page.
            mapping: Mapping file that cuts another lab's bags into episodes; without it, each bag is one attempt.
            terminal: Show the films in this terminal, for machines without a browser.
            port: TCP port of the page at 127.0.0.1; 0 = any free one.
        """
        if never or success is not None or fail is not None:
            print(annotate_bag(path, success, fail, never, mapping))
            return
        with Annotator(path, mapping) as annotator:
            if terminal:
                from diwa_data.view.annotate_terminal import annotate_in_terminal

                annotate_in_terminal(annotator)
            else:
                from diwa_data.view.annotate_page import annotate_in_browser

                annotate_in_browser(annotator, port)

    return call(command, "annotate", args)


def recover(args: list[str]) -> int:
    from diwa_data.recording.recover import recover as salvage

    def command(path: Positional[Path]) -> None:
        """Salvage the complete messages of truncated or unfinished bags.

        Args:
            path: A bag, or a folder of them.
        """
        for episode in salvage(path):
            print(f"recovered {episode}")

    return call(command, "recover", args)


def export_lerobot(args: list[str]) -> int:
    from diwa_data.lerobot.export import export_lerobot as export

    def command(dataset: Positional[Path], out: NewFolder, repo_id: str = "", video: bool = False) -> None:
        """Export a dataset to LeRobot's format v3.0, so that LeRobot's policies can train on it.

        Args:
            dataset: HDF5 file to export.
            out: Folder to write; it must not exist.
            repo_id: Name on the Hugging Face Hub (user/name), for the card; without it, local/<name of --out>.
            video: Store images as H.264 video (smaller, lossy) instead of PNG (exact).
        """
        done = export(dataset, out, repo_id, video)
        size = f"{done.size / 1e6:,.1f} MB"
        print(f"{out}: {done.episodes} episodes, {done.frames:,} frames, {size}; tasks: {', '.join(done.tasks)}")
        if done.left_out:
            print(f"left out, because policies would imitate them: {done.left_out} failed attempts")
        print(f"load it with LeRobotDataset({done.repo_id!r}, root={str(out)!r})")

    return call(command, "export-lerobot", args)


def bundle(args: list[str]) -> int:
    from diwa_cli.pipeline.bundles import require_made_for, start_region
    from diwa_data.files import require_new
    from diwa_data.skills import skill_name
    from diwa_deploy.bundle import load_bundle, pack_bundles, skills_folder, write_bundle
    from diwa_learning.agent import load_agent
    from diwa_learning.world_model.model import load_world_model

    def command(
        skill: str,
        world_model: Path,
        policy: Path,
        reward: Path,
        demonstrations: Path,
        base: Path | None = None,
        out: NewFolder | None = None,
    ) -> None:
        """Combine the checkpoints of one skill into a bundle, which `diwa run-skill` and the ROS 2 node can run.

        `diwa bundle --compact BUNDLES... --out DIR` makes small bundles, for sending.

        Args:
            skill: Skill that the policy performs.
            world_model: Checkpoint of `diwa train-world-model`.
            policy: Checkpoint of `diwa finetune`, or of `diwa train-policy`.
            reward: Checkpoint of `diwa train-reward`.
            demonstrations: HDF5 file of its demonstrations: a robot starts the skill only near where they began.
            base: Checkpoint of `diwa train-policy`, to compare the policy before and after fine-tuning.
            out: Folder to write; without it, the bundle is installed in $DIWA_HOME/skills/SKILL (default ~/.diwa).
        """
        folder = out or skills_folder() / skill_name(skill)
        require_new(folder)
        spec = load_world_model(world_model, decodes=False).spec
        for one in (policy, base) if base else (policy,):
            load_agent(world_model, one, reward, spec)  # they belong together
        require_made_for(skill, [policy, reward, *([base] if base else [])])
        parts = {"world_model": world_model, "policy": policy, "reward": reward} | ({"base": base} if base else {})
        card = {"skill": skill, "start": start_region(demonstrations, skill).to_card()}
        print(write_bundle(folder, parts, card).path)

    def compact(bundles: Positional[list[Path]], out: NewFolder, decoders: bool = False) -> None:
        """Make small bundles for sending: about 3 MB, and 1 MB for each skill.

        Args:
            bundles: Folders of bundles that share a world model, such as `runs/table/skills/*`.
            out: Folder to write.
            decoders: Keep the world model's image decoders, which `diwa dream` needs: about 2.5 MB more.
        """
        for folder in pack_bundles([load_bundle(path) for path in bundles], out, decoders):
            print(folder)

    if "--compact" in args:
        return call(compact, "bundle --compact", [word for word in args if word != "--compact"])
    return call(command, "bundle", args)


def push(args: list[str]) -> int:
    from diwa_cli.pipeline import hub

    def command(
        path: Positional[Path], repository: Positional[str], revision: str = hub.MAIN, public: bool = False
    ) -> None:
        """Upload a skill bundle, a checkpoint or a dataset to the Hugging Face Hub, with a page that describes it.

        A new repository is private, unless you say --public. Log in first: `hf auth login`, or set HF_TOKEN.

        Args:
            path: Folder of a bundle or checkpoint, or HDF5 file.
            repository: USER/NAME.
            revision: Branch; it is created if need be.
            public: Make a new repository public.
        """
        print(hub.push(path, repository, revision, public))

    return call(command, "push", args)


def pull(args: list[str]) -> int:
    from diwa_cli.pipeline import hub

    def command(repository: Positional[str], out: NewFolder | None = None, revision: str = hub.MAIN) -> None:
        """Download what `diwa push` uploaded to the Hugging Face Hub, and check it: checksums, formats, no pickles.

        With HF_HUB_OFFLINE=1 it uses this machine's copy of an earlier pull.

        Args:
            repository: USER/NAME, or datasets/USER/NAME.
            out: Folder or HDF5 file; without it, a skill is installed in $DIWA_HOME/skills (default ~/.diwa).
            revision: Branch, tag or commit.
        """
        path, kind, commit = hub.pull(repository, out, revision)
        print(f"{path}: {kind} of {repository}, commit {commit[:12]}")

    return call(command, "pull", args)


def seal(args: list[str]) -> int:
    from diwa_cli.sealing import seal as make_checksums

    def command(path: Positional[Path]) -> None:
        """Write new checksums for checkpoints, skill bundles, episodes and datasets as they are now.

        Use it for files from before version 0.2 or from others, and after a change by hand. Damaged files are refused.

        Args:
            path: One of them, or a folder that holds some at any depth.
        """
        for line in make_checksums(path):
            print(line)

    return call(command, "seal", args)


def skills(args: list[str]) -> int:
    def command(tasks: bool = False) -> None:
        """List the skills that `diwa run-skill` finds by name.

        Args:
            tasks: List the simulated tasks instead, including those of installed packages.
        """
        if tasks:
            from diwa_sim.tasks import tasks_table as table
        else:
            from diwa_cli.pipeline.bundles import skills_table as table
        print(table())

    return call(command, "skills", args)


def report(args: list[str]) -> int:
    from diwa_cli.report.report import write_report

    def command(run: Positional[Path]) -> None:
        """Write `report.html` into a run's folder: one page that holds everything, also its films.

        Args:
            run: Folder of `diwa demo` or `diwa sweep` (the page names what is missing in it), or the file of a
                comparison on a robot.
        """
        print(write_report(run))

    return call(command, "report", args)


def compare(args: list[str]) -> int:
    from diwa_cli.pipeline import compare as tables

    def command(
        runs: Positional[list[Path]],
        names: list[str] | None = None,
        each: bool = False,
        out: OutputFile | None = None,
        figure: OutputFile | None = None,
    ) -> None:
        """Print the results of several sweeps side by side, on the skills, seeds and starts that all of them have.

        Each sweep is a variant of the method on the same play, and is compared with the first, paired by start state. A
        sweep with several values of alpha_BC counts as one variant for each value.

        Args:
            runs: Folders of finished demos and sweeps.
            names: A name for each sweep; without them, the folders' names.
            each: Print a row for every run and compare nothing, for demos of different skills in one table.
            out: JSON file to write the rows into.
            figure: SVG file to draw the bars into.
        """
        print(tables.each(runs, out) if each else tables.compare(runs, names or [], out, figure))

    return call(command, "compare", args)


def doctor(args: list[str]) -> int:
    from diwa_cli.doctor import doctor as examine
    from diwa_cli.doctor import examine_robot

    def command(robot: str = "", seconds: float = 3.0, namespace: str = "") -> int:
        """Say what is installed, from where, and whether this machine can do what the project needs.

        With --robot it checks a robot file. Where ROS 2 is sourced, it also compares the running graph with that file:
        topics, types, rates, frames, images, transforms, gripper. It only listens, so nothing moves. If something is
        wrong, the exit status is 1.

        Args:
            robot: Robot file (.yaml) to check; `franka` and `sim` are the shipped ones.
            seconds: Seconds for which it listens to the graph.
            namespace: Namespace of the robot's nodes and topics, as given to the launch files.
        """
        return 0 if (examine_robot(robot, seconds, namespace) if robot else examine()) else 1

    return call(command, "doctor", args)
