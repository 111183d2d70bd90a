"""The published target follows the goal at the arm's rate, smoothly, and within every limit at every step.

The one trajectory generator of deployment, teleoperation and simulation. Each step solves for a time-optimal,
jerk-limited motion to the moving goal (Ruckig, https://arxiv.org/abs/2105.04830) in position, tilt and yaw. It takes it
only if the target could still brake from there within the limits. Otherwise it goes on along the braking ramp that was
checked one step before: whatever goal and measured pose say, the published target stays within the limits.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from ruckig import ControlInterface, InputParameter, Result, Ruckig, RuckigError, Synchronization, Trajectory

from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.motion import (
    Limited,
    is_finite,
    lead_of,
    limit_goal,
    limits_of_each_coordinate,
    metres_outside,
    outside,
    turning_stretch,
)
from diwa_data.pose import Pose, interpolate, quaternion_of, rotation_distance, tilt_and_yaw

LEFT, LEFT_AFTER = 1.2, 0.5
"""A lead of so many times its limit, for so many seconds, means that something else has moved the arm.

An arm that is pressed against something gives way by a little while the target rests at the limit.
"""
_SMOOTHING = 0.05  # s: over which the velocity of a tracked goal is averaged
_SHARE = 0.99  # of its greatest speed at which a goal is foreseen to move on: a faster one cannot be caught up with
_TOLERANCE = 1e-9


class Interpolator:
    """Moves the published target towards the goal, one step of 1 / `rate` at a time. Not thread-safe.

    A goal is either commanded a tick ahead (`command`: on the straight way, there in time) or tracked as it moves
    (`track`). Without either, and after `hold`, the target brakes and rests.
    """

    def __init__(self, limits: MotionLimits, rate: float):
        """`rate`: steps per second, Hz. Raises `DiwaError` for limits that no motion can keep."""
        if not (math.isfinite(rate) and rate > 0):
            raise DiwaError(f"a rate of {rate} Hz publishes nothing: it must be positive")
        self.limits, self._dt = limits, 1.0 / rate
        self._low, self._high = np.array(limits.workspace_low), np.array(limits.workspace_high)
        self._speed, self._acceleration, self._jerk = limits_of_each_coordinate(limits)
        self._motion = InputParameter(6)
        self._motion.synchronization = Synchronization.No
        self._motion.target_position = self._motion.target_velocity = [0.0] * 6
        self._braking = InputParameter(6)
        self._braking.control_interface = ControlInterface.Velocity
        self._braking.synchronization = Synchronization.No
        self._braking.target_velocity = [0.0] * 6
        for motion in (self._motion, self._braking):
            motion.max_velocity = self._speed
            motion.max_acceleration, motion.max_jerk = self._acceleration, self._jerk
        self._solver = Ruckig(6, self._dt)
        self._candidate, self._ramp, self._next_ramp = Trajectory(6), Trajectory(6), Trajectory(6)
        self._target: Pose | None = None
        self._start: np.ndarray | None = None
        self._goal: np.ndarray | None = None
        self._drift = np.zeros(6)
        self._beyond = 0.0
        weakref.finalize(self, vars(self).clear)  # Ruckig's binding prints a page about what lives on at the exit

    @property
    def target(self) -> Pose | None:
        """Published last; None before `reset`."""
        return self._target

    @property
    def rest(self) -> Pose:
        """The pose at which the target would come to rest if it braked now."""
        return _pose(self._at_rest(self._ramp))

    @property
    def at_rest(self) -> bool:
        """The target stands still, and stays so without a new goal."""
        return self._goal is None and self._since >= self._ramp.duration

    @property
    def is_left(self) -> bool:
        """The lead has been beyond `LEFT` limits for `LEFT_AFTER` seconds: something else has moved the arm."""
        return self._beyond > LEFT_AFTER

    def reset(self, pose: Pose) -> None:
        """Rest at `pose`. Raises `DiwaError` outside of the workspace or the tilt limit."""
        if problem := outside(pose, self.limits):
            raise DiwaError(f"{problem}: move it inside, or widen the limits")
        self._state = _coordinates(pose), np.zeros(6), np.zeros(6)
        self._target, self._beyond = pose, 0.0
        self._brake_from(self._state, self._ramp)
        self._since = 0.0
        self.hold()

    def hold(self) -> None:
        """Brake, rest, and forget the goal."""
        self._start = self._goal = None

    def command(self, goal: Pose, seconds: float) -> tuple[str, ...]:
        """Be at `goal` in `seconds`, on the straight way from where the goal is now; rest there if no other follows.

        Returns the limits that changed the goal; one that is not finite holds. Raises `DiwaError` for no or negative
        time.
        """
        if not 0 < seconds < math.inf:
            raise DiwaError(f"a goal to be at in {seconds} s: the time must be positive")
        if not is_finite(goal):
            self.hold()
            return ("finite",)
        limited, start = limit_goal(goal, self.limits), self._goal_so_far()
        self._start, self._goal = start, self._unwound(limited.pose, start)
        self._elapsed, self._seconds = 0.0, seconds
        return limited.interventions

    def track(self, goal: Pose) -> tuple[str, ...]:
        """Follow a goal that is told again at every step; returns the limits that changed it."""
        if not is_finite(goal):
            self.hold()
            return ("finite",)
        limited, before = limit_goal(goal, self.limits), self._goal_so_far()
        now = self._unwound(limited.pose, before)
        if self._start is not None or self._goal is None:
            self._drift = np.zeros(6)
        else:
            share = min(1.0, self._dt / _SMOOTHING)
            self._drift += share * ((now - before) / self._dt - self._drift)
        self._start, self._goal = None, now
        return limited.interventions

    def step(self, measured: Pose | None = None) -> Limited:
        """The target one step later, and why it braked instead of following: `finite`, `lead` or `ramp`.

        It brakes for a `measured` pose that is not finite or that it would lead by too much, and where a limit is too
        near to go on. None leaves the lead alone.
        """
        if self._target is None:
            raise RuntimeError("reset the interpolator before its first step")
        interventions: tuple[str, ...] = ()
        if measured is not None and not is_finite(measured):
            measured, interventions = None, ("finite",)
            self._take_ramp()
        elif self._goal is None:
            self._take_ramp()
        elif reason := self._advance(measured):
            interventions = (reason,)
        self._target = _pose(self._state[0])
        if measured is not None:
            self._beyond = self._beyond + self._dt if self._lead(self._state[0], measured) > LEFT else 0.0
        return Limited(self._target, interventions)

    def _advance(self, measured: Pose | None) -> str:
        """Take the next step to the goal; what stood in the way, if anything did: `lead` or `ramp`.

        Where the goal would lead by too much, the step is to the nearest place that does not: a blocked arm is let
        slide along what blocks it.
        """
        fastest = self._speed_at(self._state[0])
        goal, velocity, next_goal = self._goal_now(fastest)
        reason = self._try(goal, velocity, next_goal, fastest, measured)
        if reason == "ramp":  # one that stands still may be within reach
            reason = self._try(next_goal, np.zeros(6), next_goal, fastest, measured)
        if reason == "ramp":  # or on the straight way, which never leaves the disc of tilts
            self._motion.synchronization = Synchronization.Phase
            reason = self._try(next_goal, np.zeros(6), next_goal, fastest, measured)
            self._motion.synchronization = Synchronization.No
        if reason == "lead":
            assert measured is not None
            near = self._within_lead(next_goal, measured)
            if self._try(near, np.zeros(6), near, fastest, measured):
                self._take_ramp()
        elif reason:
            self._take_ramp()
        return reason

    def _try(
        self, goal: np.ndarray, velocity: np.ndarray, next_goal: np.ndarray, fastest: np.ndarray, measured: Pose | None
    ) -> str:
        """Take the next step to a goal that moves at `velocity` from now to the next step; why not, if it cannot be.

        Seen from the goal, the target has to come to rest at zero.
        """
        position, speed, acceleration = self._state
        motion = self._motion
        motion.current_position, motion.current_velocity = position - goal, speed - velocity
        motion.current_acceleration = acceleration
        motion.max_velocity, motion.min_velocity = fastest - velocity, -fastest - velocity
        if not self._solve(motion, self._candidate):
            return "ramp"
        position, speed, acceleration = _arrays(self._candidate.at_time(self._dt))
        state = position + next_goal, speed + velocity, acceleration
        self._brake_from(state, self._next_ramp)
        if not self._keeps_within(self._next_ramp):
            return "ramp"
        if measured is not None:
            ahead = self._lead(self._at_rest(self._next_ramp), measured)
            if ahead > 1.0 + _TOLERANCE and ahead >= self._lead(self._at_rest(self._ramp), measured):
                return "lead"
        self._state = state
        self._ramp, self._next_ramp, self._since = self._next_ramp, self._ramp, 0.0
        return ""

    def _lead(self, coordinates: np.ndarray, measured: Pose) -> float:
        return lead_of(coordinates[:3], quaternion_of(coordinates[3:].tolist()), measured, self.limits)

    def _within_lead(self, goal: np.ndarray, measured: Pose) -> np.ndarray:
        """The coordinates nearest to `goal` that lead `measured` by no more than the limits."""
        hand, pose = self._unwound(measured, goal), _pose(goal)
        metres = float(np.linalg.norm(pose.position - measured.position))
        turned = rotation_distance(measured.rotation, pose.rotation)
        near = goal.copy()
        near[:3] = hand[:3] + min(1.0, self.limits.max_lead_pos / max(metres, _TOLERANCE)) * (goal[:3] - hand[:3])
        near[3:] = hand[3:] + min(1.0, self.limits.max_lead_rot / max(turned, _TOLERANCE)) * (goal[3:] - hand[3:])
        return self._unwound(limit_goal(_pose(near), self.limits).pose, near)

    def _take_ramp(self) -> None:
        """One more step along the braking ramp."""
        self._since += self._dt
        if self._since >= self._ramp.duration:  # at rest exactly, where the ramp ends with rounding
            self._state = self._at_rest(self._ramp), np.zeros(6), np.zeros(6)
            return
        self._state = _arrays(self._ramp.at_time(self._since))

    def _brake_from(self, state: tuple[np.ndarray, np.ndarray, np.ndarray], ramp: Trajectory) -> None:
        braking = self._braking
        braking.current_position, braking.current_velocity, braking.current_acceleration = state
        if not self._solve(braking, ramp):
            raise RuntimeError(f"no braking ramp from {state}")

    def _solve(self, motion: InputParameter, trajectory: Trajectory) -> bool:
        """Whether there is such a trajectory. Ruckig answers in three ways that there is none."""
        try:
            return self._solver.calculate(motion, trajectory) in (Result.Working, Result.Finished)
        except (RuckigError, ValueError):
            return False

    def _at_rest(self, ramp: Trajectory) -> np.ndarray:
        return np.array(ramp.at_time(ramp.duration)[0])

    def _keeps_within(self, ramp: Trajectory) -> bool:
        """All that would be published on the ramp is in the box, below the tilt limit, and turns slowly enough.

        As the tilt grows, the hand turns faster at the same speeds of its coordinates: these may be within their limits
        now and beyond them a step later, sooner than they can be lowered.
        """
        steps = range(math.ceil(ramp.duration / self._dt) + 1)
        published = np.array([self._state[0], *(ramp.at_time(step * self._dt)[0] for step in steps)])  # (T, 6)
        if metres_outside(published[:, :3], self.limits) > _TOLERANCE:
            return False
        if np.hypot(published[:, 3], published[:, 4]).max() > self.limits.max_tilt + _TOLERANCE:
            return False
        return self._turns_within(published[:, 3:])

    def _turns_within(self, angles: np.ndarray) -> bool:
        """Whether no step between neighbours of `tilt_and_yaw` (T, 3) turns the hand too fast.

        With k as in `turning_stretch`, below 0.73, a step turns it by at most sqrt(1 + k) of the norm of the change.
        """
        most = self.limits.max_rotation_speed * self._dt * (1 + _TOLERANCE)
        fast = np.flatnonzero(_squared_changes(angles) > (most / 1.32) ** 2)
        if not fast.size:
            return True
        quaternions = np.array([quaternion_of(each) for each in angles[: fast[-1] + 2].tolist()])
        chord = math.sqrt(_squared_changes(quaternions).max())
        return 4 * math.asin(min(1.0, chord / 2)) <= most

    def _goal_now(self, fastest: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The goal now, its velocity, and the goal one step from now, (6,) each."""
        assert self._goal is not None
        if self._start is None:
            velocity = self._stoppable(self._goal, self._drift, fastest)
            return self._goal - velocity * self._dt, velocity, self._goal
        if self._elapsed > self._seconds - self._dt / 2:
            return self._goal, np.zeros(6), self._goal
        way = (self._goal - self._start) / self._seconds
        now = self._start + self._elapsed * way
        self._elapsed += self._dt
        velocity = self._stoppable(now, way, fastest)
        return now, velocity, now + velocity * self._dt

    def _stoppable(self, goal: np.ndarray, velocity: np.ndarray, fastest: np.ndarray) -> np.ndarray:
        """`velocity` (6,), as far as the limits let something brake that passes `goal` with it."""
        velocity = np.minimum(np.maximum(velocity, -_SHARE * fastest), _SHARE * fastest)  # np.clip is slow
        room = np.where(velocity[:3] > 0, self._high - goal[:3], goal[:3] - self._low)
        stoppable = _speed_to_stop_in(np.maximum(room, 0.0), self._acceleration[:3], self._jerk[:3])
        velocity[:3] = np.minimum(np.maximum(velocity[:3], -stoppable), stoppable)
        tilt = math.hypot(goal[3], goal[4])
        outward = (goal[3] * velocity[3] + goal[4] * velocity[4]) / tilt if tilt > _TOLERANCE else 0.0
        slope = float(_speed_to_stop_in(max(0.0, self.limits.max_tilt - tilt), self._acceleration[3], self._jerk[3]))
        if outward > slope:
            velocity[3:5] *= slope / outward
        return velocity

    def _speed_at(self, coordinates: np.ndarray) -> np.ndarray:
        """The greatest speed (6,) of each coordinate where the hand is."""
        tilt = min(math.hypot(coordinates[3], coordinates[4]), self.limits.max_tilt)
        self._speed[3:] = self.limits.max_rotation_speed / turning_stretch(tilt)
        return self._speed

    def _goal_so_far(self) -> np.ndarray:
        """The goal now; the place where the target comes to rest, if there is none."""
        if self._goal is None:
            return self._at_rest(self._ramp)
        if self._start is None:
            return self._goal
        return self._start + min(1.0, self._elapsed / self._seconds) * (self._goal - self._start)

    def _unwound(self, goal: Pose, before: np.ndarray) -> np.ndarray:
        """Coordinates of `goal`, with the yaw nearest to that `before`."""
        coordinates = _coordinates(goal)
        coordinates[5] += 2 * math.pi * round((before[5] - coordinates[5]) / (2 * math.pi))
        return coordinates


def way(start: Pose, goal: Pose, speed: float, rotation_speed: float, tick: float) -> Iterator[Pose]:
    """Commands of one tick each, straight from `start` to `goal`, at most `speed` m/s and `rotation_speed` rad/s."""
    metres = float(np.linalg.norm(goal.position - start.position))
    seconds = max(metres / speed, rotation_distance(start.rotation, goal.rotation) / rotation_speed)
    ticks = max(1, math.ceil(seconds / tick))
    for number in range(1, ticks + 1):
        yield interpolate(start, goal, number / ticks)


def _coordinates(pose: Pose) -> np.ndarray:
    """(6,): position in metres, tilt vector and yaw in rad."""
    return np.concatenate([pose.position, tilt_and_yaw(pose.quaternion.tolist())])


def _squared_changes(rows: np.ndarray) -> np.ndarray:
    """(T-1,): the squared distance between neighbours of (T, N)."""
    changes = rows[1:] - rows[:-1]
    return (changes * changes).sum(1)


def _arrays(state: Iterable[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position, speed and acceleration (6,) each."""
    position, speed, acceleration = map(np.array, state)
    return position, speed, acceleration


def _pose(coordinates: np.ndarray) -> Pose:
    return Pose.from_quaternion(np.array(coordinates[:3]), quaternion_of(coordinates[3:].tolist()))


def _speed_to_stop_in(room: Any, acceleration: Any, jerk: Any) -> Any:
    """The speed v from which v^2 / 2a + v a / 2j is `room`."""
    ramp = acceleration / (2 * jerk)
    return acceleration * (np.sqrt(ramp**2 + 2 * room / acceleration) - ramp)
