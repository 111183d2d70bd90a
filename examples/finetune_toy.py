"""Fine-tune a policy in dreams for a moment, and look at what PPO did. No robot and no simulator take part.

    python examples/finetune_toy.py runs/demo runs/toy

Four small iterations show the mechanism and improve nothing: `diwa finetune` does it at full length.
"""

import sys
from dataclasses import replace
from pathlib import Path

from diwa_cli.run_folder import read_metrics
from diwa_data.config import Source
from diwa_learning.finetune.train import FinetuneConfig, FinetuneJob


def main(demo: Path, out: Path, skill: str = "open_drawer") -> None:
    # Settings are frozen dataclasses; a preset fills them, `replace` changes one.
    config = Source("debug").section(FinetuneConfig, "finetune")
    config = replace(config, iterations=4, critic_warmup=1, result="last", alpha_bc=0.1)
    config = replace(config, dream=replace(config.dream, dreams=8, penalty=0.0))
    print(f"{config.dream.dreams} dreams of {config.dream.chunks} chunks in each of {config.iterations} iterations")

    trained = demo / skill / "seed_0"
    job = FinetuneJob(
        policy=trained / "policy",
        reward=trained / "reward",
        world_model=demo / "world_model",
        demonstrations=demo / skill / "demonstrations.h5",
        out=out,
        config=config,
    )
    print(f"as a command: {job.command(Source('debug'))}")
    job.run()  # an interrupted one continues

    metrics = read_metrics(out) or {}
    for name in ("dream_success", "approx_kl", "bc_kl"):
        curve = metrics["history"].get(name, [])
        print(f"{name}: {', '.join(f'{value:.3g} (iteration {step})' for step, value in curve)}")
    print(f"a policy that `diwa evaluate` and `diwa bundle` take: {out}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]), *sys.argv[3:])
