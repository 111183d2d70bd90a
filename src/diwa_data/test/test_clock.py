"""The clock of ages goes on whatever is done to the wall clock."""

from __future__ import annotations

import time

import pytest

from diwa_data.ros import clock


@pytest.mark.parametrize("jump", [-3600.0, 0.0, 3600.0])
def test_the_wall_clock_may_be_set(monkeypatch, jump):
    real = time.time
    before = clock.now()
    assert before == pytest.approx(real(), abs=0.5)
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    assert 0 <= clock.now() - before < 1.0


@pytest.mark.parametrize(("jump", "waited"), [(0.0, 0.3), (-3600.0, 0.0), (3600.0, 0.0)])
def test_a_message_is_as_old_as_it_waited_unless_the_clock_was_set_meanwhile(monkeypatch, jump, waited):
    received, real = time.time() - 0.3, time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    assert clock.now() - clock.at(received) == pytest.approx(waited, abs=0.2)
