"""The node `train`: `ros2 run diwa_learning train_node --ros-args -p stage:=world_model -p dataset:=play.h5`.

The parameters of the node become one stage of training, its progress `/diagnostics`.
"""

from __future__ import annotations

import sys

from rclpy.node import Node

from diwa_data.errors import DiwaError
from diwa_data.progress import Standing, listening
from diwa_data.ros.node import Diagnostics, declare, every, overrides, run_work, source

PERIOD = 1.0
"""Seconds between messages."""


class Trainer(Node):
    """The node `train`; its parameters are the fields of `TrainConfig`."""

    def __init__(self) -> None:
        from diwa_learning import jobs  # torch takes seconds to import, in which a signal ends the node as ever

        super().__init__("train", automatically_declare_parameters_from_overrides=True)
        self._train, self._config = jobs.train, jobs.train_config(overrides(self), source(self))
        declare(self, self._config)
        self._state, self._problem = "preparing", ""
        self._standing: Standing | None = None
        self._diagnostics = Diagnostics(self)
        every(self, PERIOD, self._tell)

    def work(self) -> None:
        """Train until it is done; after KeyboardInterrupt the next call continues."""
        try:
            with listening(self._on_progress):
                out = self._train(self._config)
        except KeyboardInterrupt:
            self._state = "stopped"
            raise
        except DiwaError as error:
            self._state, self._problem = "failed", str(error)
            raise
        self._state = "finished"
        self.get_logger().info(f"{self._config.stage} is finished: {out}")

    def close(self) -> None:
        """Tell how it ended."""
        self._tell()

    def _on_progress(self, standing: Standing) -> None:
        self._state, self._standing = "training", standing  # read by the thread that spins

    def _tell(self) -> None:
        now, values = self._standing, {}
        if now:
            values = {"phase": now.title, "done": f"{now.done:.0f}", "total": f"{now.total:.0f}", "unit": now.unit}
            numbers = {"rate": now.rate, "eta_s": now.eta, **now.values}
            values |= {name: f"{number:.5g}" for name, number in numbers.items()}
        self._diagnostics.add(self._config.stage, self._problem, state=self._state, **values)
        self._diagnostics.publish()


def main() -> None:
    """The node `train`; its exit status is 0 when it is finished or was stopped, 2 when it says why it cannot run."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # whoever launched it sees each line at once
    run_work(Trainer)


if __name__ == "__main__":
    main()
