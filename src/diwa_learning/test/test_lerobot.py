"""A dataset that LeRobot's own library wrote, imported, trains a world model and a policy."""

from pathlib import Path

import pytest
import torch
import toy

from diwa_data.lerobot.convert import LeRobotImportConfig, import_lerobot
from diwa_learning.policy.checkpoint import load_policy
from diwa_learning.policy.train import PolicyJob
from diwa_learning.world_model.model import load_world_model
from diwa_learning.world_model.train import WorldModelJob

pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra `lerobot`)")
FOLDERS = Path(__file__).parents[2] / "diwa_data/test/lerobot"


@pytest.mark.parametrize(("version", "skill"), [("v30", "close_the_drawer"), ("v21", "close_drawer")])
def test_imported_demonstrations_train_a_world_model_and_a_policy(version, skill, tiny_config, tmp_path):
    data, model, policy = tmp_path / "D.h5", tmp_path / "world_model", tmp_path / "policy"
    import_lerobot(FOLDERS / version, data, str(FOLDERS / f"{version}.yaml"), LeRobotImportConfig(workers=1))
    WorldModelJob(datasets=(data,), out=model, config=tiny_config).run()
    world = load_world_model(model)
    assert len(world.spec.cameras) == (2 if version == "v30" else 1)
    PolicyJob(demonstrations=data, world_model=model, out=policy, config=toy.POLICY).run()
    loaded = load_policy(policy, world.spec, world.hash, world.model.feature_dim)
    assert loaded.skill == skill
    assert all(torch.isfinite(weight).all() for weight in loaded.policy.state_dict().values())
