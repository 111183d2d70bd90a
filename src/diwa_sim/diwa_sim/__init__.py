"""A MuJoCo Panda at a table, its task oracles and the scripted operator."""
