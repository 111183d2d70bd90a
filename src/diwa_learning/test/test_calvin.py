"""CALVIN's data, imported, through a world model's training and a policy's."""

import dataclasses

import torch

from diwa_data.calvin.convert import CalvinImportConfig, import_calvin
from diwa_data.calvin.tasks import GOALS
from diwa_data.dataset.dataset import load_dataset
from diwa_data.spec import CALVIN
from diwa_data.testing.synthetic import write_calvin
from diwa_learning.reward.classifier import recorded_margin
from diwa_learning.world_model.model import load_world_model
from diwa_learning.world_model.train import WorldModelJob


def test_imported_play_trains_a_world_model(tiny_config, tmp_path):
    folder = write_calvin(tmp_path / "data", [40, 30], [("open_drawer", 2, 25)])
    import_calvin(folder, tmp_path / "play.h5", CalvinImportConfig(episode_frames=14, workers=1))
    config = dataclasses.replace(tiny_config, scene_state=True, robot_state_weight=1.0)
    WorldModelJob(datasets=(tmp_path / "play.h5",), out=tmp_path / "world_model", config=config).run()
    loaded = load_world_model(tmp_path / "world_model")
    assert loaded.spec == CALVIN
    assert all(torch.isfinite(weight).all() for weight in loaded.model.state_dict().values())


def test_goals_are_those_of_calvins_table(tmp_path):
    """Judged from the far end: the drawer counts as closed when 0.12 m of its 0.22 m are gone."""
    folder = write_calvin(tmp_path / "data", [40])
    import_calvin(folder, tmp_path / "play.h5", CalvinImportConfig(workers=1))
    (episode,) = load_dataset(tmp_path / "play.h5").episodes
    done = recorded_margin(episode, GOALS["close_drawer"], CALVIN) >= -1e-9
    assert done.tolist() == [frame <= 10 for frame in range(40)]
