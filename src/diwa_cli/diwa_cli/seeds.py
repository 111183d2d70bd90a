"""Seeds of evaluations and of DPPO: ranges that never overlap, above the recorder's, which have 32 bits.

A figure is final only if nobody looked at its start states before: when settings change after a look at final figures,
the range of the final seeds moves on.
"""

TUNING_SEEDS = range(5_000_000_000, 6_000_000_000)
"""For choosing settings."""
CURVE_SEEDS = range(6_000_000_000, 7_000_000_000)
"""For learning curves."""
DPPO_SEEDS = range(7_000_000_000, 8_000_000_000)
"""For the baseline that trains in the simulator."""
FINAL_SEEDS = range(8_000_000_000, 9_000_000_000)
"""For the figure that is reported."""
SEEDS = {"tuning": TUNING_SEEDS, "curve": CURVE_SEEDS, "final": FINAL_SEEDS}
"""Of evaluations, by name."""
