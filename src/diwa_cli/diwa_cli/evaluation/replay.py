"""`diwa replay`: the share of demonstrations whose dataset actions succeed again, open loop, from the same start."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from diwa_data.files import write_json
from diwa_sim.replay import replay, success_shares

MINIMUM = 0.95
"""Share per skill below which scale, frame, sign or timing of the recorded actions is in doubt."""


def replay_dataset(dataset: Path, minimum: float = MINIMUM, out: Path | None = None) -> bool:
    """Replay, print a line per skill, write the results to `out` as JSON; whether every skill reaches `minimum`."""
    results = replay(dataset)
    shares = success_shares(results)
    for skill, share in shares.items():
        mine = [result for result in results if result.skill == skill]
        verdict = "" if share >= minimum else f"  below {100 * minimum:.0f} %"
        print(f"{skill:<20} {sum(r.succeeded for r in mine)} of {len(mine)} ({100 * share:.0f} %){verdict}")
    if out:
        write_json(out, {"minimum": minimum, "shares": shares, "episodes": [dataclasses.asdict(r) for r in results]})
    return all(share >= minimum for share in shares.values())
