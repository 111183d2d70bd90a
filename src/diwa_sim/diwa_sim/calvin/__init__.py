"""CALVIN's own environment (`calvin_env`, installed by the user): starts, tasks, recording and rollouts."""
