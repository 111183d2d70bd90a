"""The commands of the four training phases and of the baseline: arguments in, one function call."""

import dataclasses
from pathlib import Path

from diwa_cli.arguments import Flags, OutputFolder, call, split_source


def train_world_model(args: list[str]) -> int:
    from diwa_learning.world_model import train as phase

    source, rest = split_source(args)
    defaults = source.section(phase.WorldModelConfig, "world_model")

    def command(datasets: list[Path], out: OutputFolder, config: Flags[phase.WorldModelConfig] = defaults) -> None:
        """Train a world model on datasets of play and demonstrations.

        Args:
            datasets: HDF5 files of `diwa build-dataset`.
            out: Checkpoint folder; an interrupted training in it continues.
        """
        phase.train_world_model(datasets, out, config)

    return call(command, "train-world-model", rest)


def evaluate_world_model(args: list[str]) -> int:
    from diwa_cli.evaluation import world_model as evaluation

    source, rest = split_source(args)
    defaults = source.section(evaluation.EvaluateWorldModelConfig, "evaluate_world_model")

    def command(
        world_model: Path,
        dataset: Path,
        out: OutputFolder,
        config: Flags[evaluation.EvaluateWorldModelConfig] = defaults,
    ) -> None:
        """Imagine clips open loop and compare with what was recorded: PSNR, SSIM, KL, hand and scene, step by step.

        Args:
            world_model: Checkpoint folder of `diwa train-world-model`.
            dataset: HDF5 file. Of one that the model was trained on, the episodes that were held out; else all.
            out: Folder for result.json, the curves, a filmstrip and a film.
        """
        print(evaluation.text(evaluation.evaluate_world_model(world_model, dataset, out, config)))

    return call(command, "evaluate-world-model", rest)


def train_guard(args: list[str]) -> int:
    from diwa_learning.ensemble import train as phase

    source, rest = split_source(args)
    defaults = source.section(phase.GuardConfig, "guard")

    def command(
        datasets: list[Path], world_model: Path, out: OutputFolder, config: Flags[phase.GuardConfig] = defaults
    ) -> None:
        """Train a guard of a world model's dreams: an ensemble of priors that disagrees where the model guesses.

        Args:
            datasets: HDF5 files that the world model was trained on.
            world_model: Checkpoint folder of `diwa train-world-model`.
            out: Checkpoint folder; an interrupted training in it continues.
        """
        phase.train_guard(datasets, world_model, out, config)

    return call(command, "train-guard", rest)


def train_policy(args: list[str]) -> int:
    from diwa_learning.policy import train as phase

    source, rest = split_source(args)
    defaults = source.section(phase.PolicyConfig, "policy")

    def command(
        demonstrations: Path, world_model: Path, out: OutputFolder, config: Flags[phase.PolicyConfig] = defaults
    ) -> None:
        """Train a policy to imitate the demonstrations of one skill.

        Args:
            demonstrations: HDF5 file with demonstrations of one skill.
            world_model: Checkpoint folder of `diwa train-world-model`.
            out: Checkpoint folder; an interrupted training in it continues.
        """
        phase.train_policy(demonstrations, world_model, out, config)

    return call(command, "train-policy", rest)


def train_reward(args: list[str]) -> int:
    from diwa_learning.reward import train as phase

    source, rest = split_source(args)
    defaults = source.section(phase.RewardConfig, "reward")

    def command(
        demonstrations: Path,
        world_model: Path,
        out: OutputFolder,
        play: Path | None = None,
        config: Flags[phase.RewardConfig] = defaults,
    ) -> None:
        """Train the success classifier of one skill, which gives the reward in dreams.

        With --kind decoder, a hybrid world model's own decoder takes its place: only its scores are measured.

        Args:
            demonstrations: HDF5 file with demonstrations of one skill.
            world_model: Checkpoint folder of `diwa train-world-model`.
            out: Checkpoint folder; an interrupted training in it continues.
            play: HDF5 file with play, for more negatives.
        """
        phase.train_reward(demonstrations, play, world_model, out, config)

    return call(command, "train-reward", rest)


def finetune(args: list[str]) -> int:
    from diwa_learning.finetune import train as phase

    source, rest = split_source(args)
    defaults = source.section(phase.FinetuneConfig, "finetune")

    def command(
        policy: Path,
        reward: Path,
        world_model: Path,
        demonstrations: Path,
        out: OutputFolder,
        play: Path | None = None,
        guard: Path | None = None,
        config: Flags[phase.FinetuneConfig] = defaults,
    ) -> None:
        """Fine-tune a policy by PPO inside the world model's dreams, without any simulator or robot.

        Args:
            policy: Checkpoint folder of `diwa train-policy`.
            reward: Checkpoint folder of `diwa train-reward`.
            world_model: Checkpoint folder of `diwa train-world-model`.
            demonstrations: HDF5 file with demonstrations of the skill: dreams start from their frames.
            out: Checkpoint folder; an interrupted training in it continues.
            play: HDF5 file with play: dreams start from its frames too.
            guard: Checkpoint folder of `diwa train-guard`: says where dreams should not be believed.
        """
        phase.finetune(policy, reward, world_model, demonstrations, play, out, config, guard)

    return call(command, "finetune", rest)


def dppo(args: list[str]) -> int:
    from diwa_cli.evaluation import dppo as baseline
    from diwa_cli.evaluation.evaluate import EvaluateConfig
    from diwa_learning.finetune.dppo import DPPOConfig
    from diwa_sim.environments import EnvironmentConfig
    from diwa_sim.table import SimConfig

    source, rest = split_source(args)
    defaults, sim = source.section(DPPOConfig, "dppo"), source.section(SimConfig, "sim")
    evaluated = source.section(EvaluateConfig, "evaluate")
    place = EnvironmentConfig(evaluated.environment, evaluated.calvin)

    def command(
        policy: Path,
        world_model: Path,
        out: OutputFolder,
        until: Path | None = None,
        workers: int = 2,
        where: Flags[EnvironmentConfig] = place,
        config: Flags[DPPOConfig] = defaults,
    ) -> None:
        """Fine-tune a policy by PPO in the simulator, with the simulator's own rewards: the baseline DPPO.

        Args:
            policy: Checkpoint folder of `diwa train-policy`; its skill is what is practised.
            world_model: Checkpoint folder of the world model it was trained on, which filters what it sees.
            out: Checkpoint folder; an interrupted training in it continues.
            until: Folder of `diwa evaluate`: practice ends once its rollouts succeed as often as the last policy there
                (sets `--enough`).
            workers: Processes with simulators; the result does not depend on it.
        """
        config = dataclasses.replace(config, enough=baseline.judged_rate(until)) if until else config
        baseline.dppo_in_simulator(policy, world_model, out, config, where.chosen(sim), workers)

    return call(command, "dppo", rest)
