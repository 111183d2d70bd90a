"""The commands of the four training phases and of the baseline: arguments in, one function call."""

from pathlib import Path

from diwa_cli.arguments import Flags, OutputFolder, call, run_job, split_source


def train_world_model(args: list[str]) -> int:
    from diwa_learning.world_model.train import WorldModelJob

    return run_job(WorldModelJob, args)


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
    from diwa_learning.ensemble.train import GuardJob

    return run_job(GuardJob, args)


def train_policy(args: list[str]) -> int:
    from diwa_learning.policy.train import PolicyJob

    return run_job(PolicyJob, args)


def train_reward(args: list[str]) -> int:
    from diwa_learning.reward.train import RewardJob

    return run_job(RewardJob, args)


def finetune(args: list[str]) -> int:
    from diwa_learning.finetune.train import FinetuneJob

    return run_job(FinetuneJob, args)


def dppo(args: list[str]) -> int:
    from diwa_cli.evaluation.dppo import DPPOJob

    return run_job(DPPOJob, args)
