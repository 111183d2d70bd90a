"""Motion limits as part of the contract: how two compare, and the widest of several."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_data.errors import DiwaError
from diwa_data.limits import WIDER, MotionLimits, widest
from diwa_data.spec import Spec, require_same, under_all_limits

LIMITS = MotionLimits()
SCALED = st.builds(
    lambda scales, low, high: replace(
        MotionLimits(workspace_low=(low, -0.5, 0.0), workspace_high=(high, 0.5, 0.8)),
        **{name: getattr(LIMITS, name) * scale for name, scale in scales.items()},
    ),
    st.fixed_dictionaries({each.name: st.sampled_from([0.5, 1.0, 2.0]) for each in fields(LIMITS)[2:]}),
    st.sampled_from([0.1, 0.2, 0.3]),
    st.sampled_from([0.7, 0.8, 0.9]),
)


@given(st.lists(st.one_of(st.none(), SCALED), max_size=4))
def test_the_widest_are_beyond_none_and_wider_than_no_need(some):
    found, known = widest(some), [each for each in some if each]
    if not known:
        assert found is None
        return
    assert not any(each.compared(found).startswith(WIDER) for each in known)
    for name in (each.name for each in fields(found)[2:]):
        assert getattr(found, name) == max(getattr(each, name) for each in known)
    assert found.workspace_low[0] == min(each.workspace_low[0] for each in known)


def test_a_line_says_how_limits_differ():
    assert LIMITS.compared(None) == LIMITS.compared(LIMITS) == ""
    slow = replace(LIMITS, max_speed=0.1)
    assert slow.compared(LIMITS) == "motion limits are narrower than those of the recordings (max_speed 0.1 for 0.52)"
    wide = replace(slow, workspace_low=(0.1, -0.5, 0.0))
    said = wide.compared(LIMITS)
    assert said.startswith(f"{WIDER} (workspace_low (0.1, -0.5, 0) for (0.2, -0.5, 0)):")
    assert "max_speed" not in said


def test_the_contract_carries_limits_that_may_differ():
    narrow = Spec(limits=replace(LIMITS, max_speed=0.1))
    assert Spec.from_json(narrow.to_json(), "here") == narrow
    require_same(Spec(limits=LIMITS), narrow, "here")
    require_same(Spec(), narrow, "here")
    with pytest.raises(DiwaError, match=r"spec\.limits\.max_speed is 0\.1, expected 0\.52"):
        require_same(Spec(limits=LIMITS), narrow, "here", limits=True)
    with pytest.raises(DiwaError, match=r"rates.json.*limits: unknown key 'max_sped'"):
        Spec.from_json(narrow.to_json().replace("max_speed", "max_sped"), "rates.json")
    with pytest.raises(DiwaError, match=r"max_speed is -0\.1: it must be positive"):
        Spec.from_json(narrow.to_json().replace('"max_speed": 0.1', '"max_speed": -0.1'), "rates.json")


def test_recordings_under_different_limits_are_used_together_under_the_widest(capsys):
    slow, fast = Spec(limits=replace(LIMITS, max_speed=0.1)), Spec(limits=LIMITS)
    assert under_all_limits([slow, Spec(), fast], "the bags").limits == LIMITS
    assert capsys.readouterr().out == "the bags were recorded under 2 different motion limits: the widest are used\n"
    assert under_all_limits([slow, Spec()], "the bags") == slow
    assert under_all_limits([Spec()], "the bags") == Spec()
    assert not capsys.readouterr().out


def test_a_spec_of_before_has_no_limits():
    text = Spec().to_json()
    assert '"limits": null, ' in text
    assert Spec.from_json(text.replace('"limits": null, ', ""), "here") == Spec()
