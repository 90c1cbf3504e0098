from orchestration.grids.cells import compose
from orchestration.mirror.parameters import parameters

REAL = {"dataset": "camvid", "method": "supervised", "backbone.pretrained": False, "data_root": "camvid"}


def test_real_images_have_no_parameters_of_drawn_scenes_and_no_method_those_of_another() -> None:
    shown = parameters(compose(REAL))
    assert not [name for name in shown if name.startswith("dataset.scenes") or "agents" in name or "cutmix" in name]
    expected = {"dataset.name": "camvid", "split": "11", "trainer.learning_rate": "0.005", "data_root": "camvid",
                "backbone.pretrained": "false", "dataset.label_map": "{11:255}", "seed": "0"}  # fmt: skip
    assert expected.items() <= shown.items()
    assert len(shown) < 60


def test_drawn_scenes_are_shown_where_they_are_used() -> None:
    shown = parameters(compose({"dataset": "synthetic", "method": "rankmatch", "backbone.pretrained": False}))
    assert shown["dataset.scenes.num_train"] and shown["method.num_agents"] == "64"
