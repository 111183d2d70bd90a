"""The control loop and the safety limits that stand between a policy and an arm."""
