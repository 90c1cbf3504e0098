from pathlib import Path

import pytest

from orchestration.grids import grid
from orchestration.grids.cells import compose
from orchestration.planning import costs
from orchestration.planning.costs import SplitSize, gpu_memory_gb, num_steps, seconds_per_step, split_size


def write_lists(root: Path, **counts: int) -> None:
    for name, count in counts.items():
        path = root / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}{number}.png label.png\n" for number in range(count)) + "\n")


def test_drawn_scenes_need_no_files() -> None:
    config = compose({"split": "12", "dataset.scenes.num_train": 100, "trainer.epochs": 3})
    assert split_size(config) == SplitSize(12, 88, 48)
    assert num_steps(config) == 3 * 22


def test_published_splits_are_known_without_data() -> None:
    rankmatch = compose({"dataset": "pascal", "split": "92"})
    assert split_size(rankmatch) == SplitSize(92, 10490, 1449)
    assert num_steps(rankmatch) == 1311 * 80
    assert num_steps(compose({"dataset": "pascal", "split": "92", "method": "supervised"})) == 880


def test_split_lists_come_before_published_figures(tmp_path: Path) -> None:
    write_lists(tmp_path / "splits", **{"92__labeled": 8, "92__unlabeled": 40, "val": 5})
    config = compose({"dataset": "pascal", "split": "92", "data_root": str(tmp_path)})
    assert split_size(config) == SplitSize(8, 40, 5)


def test_unlabeled_list_is_the_rest_of_train_where_it_has_no_file(tmp_path: Path) -> None:
    write_lists(tmp_path, **{"7__labeled": 7, "train": 30})
    assert split_size(compose({"dataset": "camvid", "split": "7", "split_root": str(tmp_path)})) == SplitSize(7, 23)


def test_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    write_lists(tmp_path, **{"7__labeled": 7, "train": 30})
    (tmp_path / "val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"split list .*val.txt must be text in UTF-8"):
        split_size(compose({"dataset": "camvid", "split": "7", "split_root": str(tmp_path)}))


def test_unknown_split_has_no_steps() -> None:
    assert num_steps(compose({"dataset": "camvid"})) is None


@pytest.mark.parametrize("split", ["0", "201", "1_16", "04"])
def test_split_that_the_drawn_scenes_have_not_is_refused(split: str) -> None:
    with pytest.raises(
        ValueError, match=f"split must be how many of the drawn scenes are labeled, 1 to 200; got '{split}'"
    ):
        num_steps(compose({"split": split}))


def test_epoch_without_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="unlabeled_batch_size must be at most 2, the unlabeled images of split 198"):
        num_steps(compose({"split": "198"}))


def test_steps_are_those_that_the_loader_makes() -> None:
    from rankmatch.data.catalog import open_dataset
    from rankmatch.data.loaders import TrainLoader
    from rankmatch.data.splits import read_splits

    for method, mode in (("rankmatch", "equal"), ("supervised", "equal"), ("supervised", "authors")):
        config = compose({"method": method, "method.supervised_steps": mode, "split": "17", "trainer.epochs": 1})
        loader = TrainLoader(config, read_splits(config), open_dataset(config))
        assert loader.steps_per_epoch == num_steps(config)


def test_estimate_meets_its_anchor_and_grows_by_area() -> None:
    settings = {"dataset": "pascal", "backbone": "resnet101", "method": "unimatch", "split": "92"}
    small = seconds_per_step(compose(settings), "cuda")
    large = seconds_per_step(compose(settings | {"preset": "paper"}), "cuda")
    assert small == pytest.approx(0.37, rel=0.05)
    assert 23 < large * 104_880 / 3600 < 29


def test_estimate_shares_work_among_workers() -> None:
    one, two = (seconds_per_step(compose({"trainer.num_workers": count}), "cpu") for count in (1, 2))
    assert one == pytest.approx(2 * two)


def test_memory_of_a_gpu_grows_with_crop_views_and_precision_and_is_shared_among_workers() -> None:
    settings = {"dataset": "pascal", "backbone": "resnet101", "method": "unimatch", "split": "92"}
    activations = 32 * 4420 * 321**2 / 1e9  # 8 labeled images, and 8 unlabeled ones in three views
    fixed = 3 * 4 * 59.6e6 / 1e9 + 0.5
    assert gpu_memory_gb(compose(settings)) == pytest.approx(activations + fixed)
    assert gpu_memory_gb(compose(settings | {"trainer.precision": "bfloat16"})) == pytest.approx(
        activations / 2 + fixed
    )
    assert gpu_memory_gb(compose(settings | {"trainer.num_workers": 4})) == pytest.approx(activations / 4 + fixed)
    assert gpu_memory_gb(compose(settings | {"method": "supervised"})) == pytest.approx(activations / 4 + fixed)


@pytest.mark.parametrize(("name", "stride"), [("mobilenet_v2", 16), ("mobilenet_v2", 8), ("resnet50", 16)])
def test_saved_bytes_are_what_autograd_keeps(name: str, stride: int) -> None:
    import torch

    from rankmatch.config import ModelConfig
    from rankmatch.models import build_model

    model = build_model(ModelConfig(backbone=name, output_stride=stride)).train()
    own, kept = {parameter.data_ptr() for parameter in model.parameters()}, {}
    images = torch.zeros(2, 3, 321, 321)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(images, perturb=True)
    measured = sum(size for _, size in kept.values()) / images[:, 0].numel()
    del outputs
    assert measured == pytest.approx(costs.SAVED_BYTES_PER_PIXEL[name] * (16 // stride), rel=0.06)


def test_measured_pace_replaces_the_estimate_of_its_method() -> None:
    measured = {"rankmatch": 1.25}
    assert seconds_per_step(compose({}), "cpu", measured) == 1.25
    assert seconds_per_step(compose({"method": "fixmatch"}), "cpu", measured) != 1.25


@pytest.mark.parametrize("name", ["demo", "pascal_classic", "pascal_blended"])
def test_steps_of_a_shipped_grid_are_known_without_data(name: str) -> None:
    assert all(num_steps(cell.config) for cell in grid.load(name).cells)


@pytest.mark.parametrize(
    ("dataset", "num_images", "num_labeled", "steps"), [("camvid", 184, 11, 43), ("pascal_animals", 200, 20, 45)]
)
def test_epoch_of_a_small_set_has_the_steps_that_its_file_names(
    dataset: str, num_images: int, num_labeled: int, steps: int, tmp_path: Path
) -> None:
    folder = tmp_path / "splits" / str(num_labeled)
    folder.mkdir(parents=True)
    lines = [f"{number}.jpg {number}.png\n" for number in range(num_images)]
    (folder / "labeled.txt").write_text("".join(lines[:num_labeled]))
    (folder / "unlabeled.txt").write_text("".join(lines[num_labeled:]))
    (folder.parent / "val.txt").write_text("val.jpg val.png\n")
    file = Path(__file__).parents[3] / "experiments" / "conf" / "dataset" / f"{dataset}.yaml"
    assert f"An epoch of split {num_labeled} is {steps} steps." in file.read_text()
    settings = {"dataset": dataset, "data_root": str(tmp_path), "trainer.epochs": 1}
    assert costs.num_steps(compose(settings)) == steps
