"""The node `train`: `ros2 run diwa_learning train_node --ros-args -p stage:=world_model -p dataset:=play.h5`."""

from __future__ import annotations

import sys
from typing import Any

from diwa_data.ros.node import run_work


def main() -> None:
    """The node `train`; its exit status is 0 when it is finished or was stopped, 2 when it says why it cannot run."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # whoever launched it sees each line at once
    run_work(make)


def make() -> Any:
    """The node; torch takes seconds to import, in which a signal ends it as any other time."""
    from diwa_learning.ros.trainer import Trainer

    return Trainer()


if __name__ == "__main__":
    main()
