"""Brings the node `policy` up, has it run its skill or a sequence once, and says in one line how it went."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import rclpy
from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.action import ActionClient
from rclpy.client import Client
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future

from diwa_data.errors import DiwaError
from diwa_data.files import expanded
from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig
from diwa_data.ros.node import every, leave_in_peace, read_parameters
from diwa_data.ros.topics import LATCHED, publisher, subscribe
from diwa_deploy.trials import Comparison, run_trials
from diwa_interfaces.action import ExecuteSequence, ExecuteSkill

FINALIZED = State.PRIMARY_STATE_FINALIZED
SUCCEEDED, FAILED, REFUSED = 0, 1, 2
"""Exit status: the classifier saw the success; it did not, or the skill was stopped; it never began."""
MAX_SILENCE = 5.0
"""Seconds without a word from a running skill after which its node counts as gone; it speaks at every tick."""
CANCEL_PATIENCE = 1.5
"""Seconds after Ctrl-C in which the skill must have ended."""


@dataclass(frozen=True)
class RunSkillConfig:
    """Parameters of `run_skill`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot's file; every node is given the same."""
    skill: str = ""
    """Skill that the node `policy` has loaded."""
    sequence: tuple[str, ...] = ()
    """Skills to run one after the other instead; the node `policy` must have loaded them."""
    max_steps: int = 0
    """Most control ticks, in a sequence for each try; 0 = the node's default."""
    seed: int = 0
    """Seed of the policy's sampling."""
    patience: float = 60.0
    """Seconds to wait for the node, its checkpoint and the streams."""
    record: bool = False
    """Make a recorder start and stop; in a comparison it also marks what the operator says."""
    rollouts: int = 0
    """Trials of each policy in a comparison; 0 = run the skill once."""
    policy: Literal["finetuned", "base", "both"] = "finetuned"
    """Policies to compare; the node `policy` must be given the same value."""
    out: str = "comparison.json"
    """File of the comparison; an interrupted one continues."""


class RunSkill(Node):
    """One goal, or with `rollouts` a blind comparison that an operator judges."""

    def __init__(self) -> None:
        super().__init__("run_skill", automatically_declare_parameters_from_overrides=True)
        self._stopped: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: self._stopped.append(number))
        self._config = read_parameters(self, RunSkillConfig)
        self._change = self.create_client(ChangeState, "policy/change_state")
        self._get_state = self.create_client(GetState, "policy/get_state")
        self._action = ActionClient(self, ExecuteSkill, "execute_skill")
        self._sequence = ActionClient(self, ExecuteSequence, "execute_sequence")
        self._place = ""
        self._event = publisher(self, messages.EPISODE_EVENT)
        self._recording = ""
        subscribe(self, messages.RECORDING, self._on_recording, LATCHED)
        self._spoken = 0.0
        every(self, 0.1, lambda: None)  # a signal is noticed at least this soon

    @property
    def interrupted(self) -> bool:
        """Ctrl-C or SIGTERM has come."""
        return bool(self._stopped)

    def run(self) -> int:
        """The exit status."""
        self._bring_up()
        if self._config.rollouts:
            policies = ("base", "finetuned") if self._config.policy == "both" else (self._config.policy,)
            path, skill = expanded(self._config.out), self._config.skill
            run_trials(self, Comparison(path, skill, policies, self._config.rollouts, self._config.seed), skill)
            print(f"trials are in {path}: 'diwa report {path}' draws them", flush=True)
            return SUCCEEDED
        names = self._config.sequence
        result = self._execute_sequence() if names else self.execute(self._config.skill, self._config.seed)
        verdict = "success" if result.success else "no success"
        what = f"sequence, {result.done} of {len(names)} skills done" if names else self._config.skill
        print(f"{what}: {verdict} ({result.reason}) after {result.steps} steps", flush=True)
        return SUCCEEDED if result.success else FAILED

    def _bring_up(self) -> None:
        """Configure and activate."""
        actions = (self._action.server_is_ready, self._sequence.server_is_ready)
        ready = (self._change.service_is_ready, self._get_state.service_is_ready, *actions)
        self._until(lambda: all(is_ready() for is_ready in ready), "the node policy does not answer: does it run?")
        if self._state() == State.PRIMARY_STATE_UNCONFIGURED and not self._transition(Transition.TRANSITION_CONFIGURE):
            raise DiwaError("policy could not be configured: it says why above")
        self.activate()

    def activate(self) -> None:
        """Hold the arm; tried again while streams are missing."""

        def active() -> bool:
            if self._state() == State.PRIMARY_STATE_ACTIVE or self._transition(Transition.TRANSITION_ACTIVATE):
                return True
            time.sleep(0.5)
            return False

        self._until(active, "policy could not be activated: it says why above")

    def let_go(self) -> None:
        """Nothing is published any more: scene and arm may be reset; the simulated scene resets itself."""
        if self._state() == State.PRIMARY_STATE_ACTIVE:
            self._transition(Transition.TRANSITION_DEACTIVATE)
        if not self._config.record:
            self._event(messages.encode_string("discard"))

    def judge(self, success: bool) -> None:
        """Mark what was recorded last with the operator's word; the classifier's is none."""
        if self._config.record:
            self._event(messages.encode_string("success" if success else "fail"))

    def _state(self) -> int:
        return int(self._call(self._get_state, GetState.Request(), 2.0).current_state.id)

    def _transition(self, number: int) -> bool:
        before, request = self._state(), ChangeState.Request(transition=Transition(id=number))
        return bool(self._call(self._change, request, 15.0).success) or self._state() not in (before, FINALIZED)

    def _call(self, client: Client, request: Any, patience: float) -> Any:
        """The answer of a service, asked again every `patience` seconds: an answer that leaves before the middleware
        of its node knows ours is lost."""
        asked: list[Future] = []

        def answer() -> Future | None:
            return next((future for future in asked if future.done()), None)

        def ask() -> None:
            asked.append(client.call_async(request))

        return self._until(answer, "policy does not answer", ask, patience).result()

    def execute(self, skill: str, seed: int) -> Any:
        """Run one skill, as `_send`."""
        return self._send(self._action, ExecuteSkill.Goal(skill=skill, max_steps=self._config.max_steps, seed=seed))

    def _execute_sequence(self) -> Any:
        """Run the sequence, as `_send`."""
        names, most, seed = list(self._config.sequence), self._config.max_steps, self._config.seed
        return self._send(self._sequence, ExecuteSequence.Goal(skills=names, max_steps=most, seed=seed))

    def _send(self, client: ActionClient, goal: Any) -> Any:
        """Send the goal; Ctrl-C cancels it, and waits for the arm to hold.

        Raises `DiwaError` if the goal is refused, or its node says nothing any more.
        """
        if self._config.record:  # the recorder begins when it hears everything
            start = partial(self._event, messages.encode_string("start"))
            self._until(lambda: self._recording, "the recorder does not start: it says why above", start, 1.0)
        sent = client.send_goal_async(goal, feedback_callback=self._on_feedback)
        self._until(sent.done, "policy does not answer")
        handle = sent.result()
        if not handle.accepted:
            raise DiwaError("policy refused the goal: it says why above")
        answer = self._result(handle)
        if self._config.record:
            self._event(messages.encode_string("stop"))
        if answer.status == GoalStatus.STATUS_ABORTED:
            get_logger("run_skill").error(f"the skill was stopped: {answer.result.reason}")
        return answer.result

    def _result(self, handle: Any) -> Any:
        """Wait for the end of a goal."""
        done: Future = handle.get_result_async()
        self._on_feedback()
        end = math.inf
        while not done.done():
            rclpy.spin_once(self)
            if self._stopped and end == math.inf:
                end = time.monotonic() + CANCEL_PATIENCE
                handle.cancel_goal_async()
            if time.monotonic() > end:
                raise DiwaError(f"interrupted; policy did not say within {CANCEL_PATIENCE:g} s that the skill ended")
            if time.monotonic() - self._spoken > MAX_SILENCE:
                raise DiwaError(f"policy has said nothing for {MAX_SILENCE:g} s: did it die?")
        return done.result()

    def _on_feedback(self, said: Any = None) -> None:
        self._spoken = time.monotonic()
        if said and isinstance(said.feedback, ExecuteSequence.Feedback):
            self._tell(said.feedback)

    def _tell(self, at: Any) -> None:
        """Print where a sequence is, whenever it goes on."""
        what = f"move to where {at.skill} begins" if at.moving else at.skill
        again = f", try {at.attempt + 1}" if at.attempt else ""
        place = f"{at.index + 1} of {len(self._config.sequence)}: {what}{again}"
        if place != self._place:
            self._place = place
            print(place, flush=True)

    def _on_recording(self, episode: str) -> None:
        self._recording = episode

    def _until(
        self, ready: Callable[[], Any], problem: str, ask: Callable[[], None] = lambda: None, again: float = math.inf
    ) -> Any:
        """Spin until `ready` returns something, `ask` at first and again every so many seconds; returns that.

        Raises `DiwaError` with the `problem` when patience is over, and when it is interrupted.
        """
        end, due = time.monotonic() + self._config.patience, -math.inf
        while not (found := ready()):
            if self._stopped:
                raise DiwaError("interrupted before the skill began")
            if time.monotonic() > end:
                raise DiwaError(f"{problem} (after {self._config.patience:g} s)")
            if time.monotonic() > due:
                ask()
                due = time.monotonic() + again
            rclpy.spin_once(self)
        return found


def main() -> None:
    """The client `run_skill`."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    status = REFUSED
    try:
        status = RunSkill().run()
    except DiwaError as error:
        get_logger("run_skill").fatal(str(error))
    leave_in_peace()
    rclpy.try_shutdown()
    sys.exit(status)


if __name__ == "__main__":
    main()
