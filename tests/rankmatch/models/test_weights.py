import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models import resnet50

from rankmatch.config import ModelConfig
from rankmatch.hashing import sha256_of
from rankmatch.models import DeepLabV3Plus, build_model
from rankmatch.models.weights import check_backbone, load_backbone, load_checkpoint

SMALL = ModelConfig(backbone="mobilenet_v2", num_classes=5, width=0.25)


def built(seed: int = 0, config: ModelConfig = SMALL) -> DeepLabV3Plus:
    return build_model(config, torch.Generator().manual_seed(seed))


def saved(content: object, folder: Path) -> Path:
    path = folder / "weights.pth"
    torch.save(content, path)
    return path


def backbone_state(model: DeepLabV3Plus) -> dict[str, Tensor]:
    return model.backbone.state_dict()


def assert_same_state(model: DeepLabV3Plus, expected: dict[str, Tensor]) -> None:
    state = model.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in state)


def as_numpy_1_wrote_it(path: Path) -> Path:
    old = path.with_name("numpy_1.pth")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return old


@pytest.mark.shared
def test_every_tensor_of_the_mobilenet_backbone_is_filled(shared: Path) -> None:
    path = shared / "data/weights/mobilenet_v2_imagenet.pth"
    model = built(config=ModelConfig(backbone="mobilenet_v2"))
    load_backbone(model, path)
    file = torch.load(path, weights_only=True)
    state = backbone_state(model)
    assert set(file) - set(state) == {name for name in file if name.startswith("18.")}
    assert all(torch.equal(state[name], file[name]) for name in state)


@pytest.mark.shared
def test_mobilenet_weights_are_refused_for_another_width(shared: Path) -> None:
    path = shared / "data/weights/mobilenet_v2_imagenet.pth"
    with pytest.raises(
        ValueError, match=r"mobilenet_v2_imagenet.pth .* 0.0.weight \[32, 3, 3, 3\], not \[8, 3, 3, 3\]"
    ):
        load_backbone(built(), path)


def test_backbone_file_may_hold_a_classifier_and_lack_counters(tmp_path: Path) -> None:
    source = built(1, ModelConfig(backbone="resnet50"))
    state = {name: value for name, value in backbone_state(source).items() if "num_batches" not in name}
    extra = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000), "bn1.tmp_var": torch.zeros(128)}
    model = built(2, ModelConfig(backbone="resnet50"))
    load_backbone(model, saved(state | extra, tmp_path))
    assert all(torch.equal(value, state[name]) for name, value in backbone_state(model).items() if name in state)


def test_seven_by_seven_stem_is_refused_and_the_model_unchanged(tmp_path: Path) -> None:
    model = built(1, ModelConfig(backbone="resnet50"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = saved(resnet50().state_dict(), tmp_path)
    with pytest.raises(
        ValueError, match=r"weights.pth are of another architecture than ResNet: missing: conv1.0.weight"
    ):
        load_backbone(model, path)
    assert_same_state(model, before)


@pytest.mark.parametrize("name", ["0.1.running_var", "17.conv.2.weight"])
def test_backbone_file_that_lacks_one_tensor_is_refused(tmp_path: Path, name: str) -> None:
    state = backbone_state(built(1))
    del state[name]
    with pytest.raises(ValueError, match=f"missing: {name}$"):
        load_backbone(built(), saved(state, tmp_path))


def test_one_unknown_name_is_refused(tmp_path: Path) -> None:
    state = built(1).state_dict() | {"head.extra.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"unexpected: head.extra.weight$"):
        load_checkpoint(built(), saved(state, tmp_path))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nested", [False, True])
def test_checkpoints_load_with_prefix_and_nesting(tmp_path: Path, prefix: str, nested: bool) -> None:
    source, model = built(1), built(2)
    state = {prefix + name: value for name, value in source.state_dict().items()}
    load_checkpoint(model, saved({"model": state, "epoch": 3} if nested else state, tmp_path))
    assert_same_state(model, source.state_dict())


def test_checkpoint_with_a_numpy_1_scalar_loads(tmp_path: Path) -> None:
    source, model = built(1), built(2)
    content = {"model": source.state_dict(), "previous_best": np.float64(77.5)}
    load_checkpoint(model, as_numpy_1_wrote_it(saved(content, tmp_path)))
    assert_same_state(model, source.state_dict())


def test_other_globals_are_refused(tmp_path: Path) -> None:
    content = {"model": built().state_dict(), "where": Path("here")}
    with pytest.raises(ValueError, match=r"weights .*weights.pth cannot be read: it holds pathlib.PosixPath, and only"):
        load_checkpoint(built(), saved(content, tmp_path))


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be read: it holds posix.mkdir, and only tensors and plain values"):
        load_checkpoint(built(), saved({"model": Harmful()}, tmp_path))
    assert not (tmp_path / "harm").exists()


def test_backbone_file_is_checked_without_a_network(tmp_path: Path) -> None:
    path = saved(backbone_state(built(1)), tmp_path)
    check_backbone(SMALL, path)
    with pytest.raises(ValueError, match=r"of another architecture than ResNet: missing: conv1.0.weight"):
        check_backbone(ModelConfig(backbone="resnet50"), path)


def test_checkpoint_for_other_classes_is_refused(tmp_path: Path) -> None:
    path = saved(built(1).state_dict(), tmp_path)
    other = built(config=ModelConfig(backbone="mobilenet_v2", num_classes=7, width=0.25))
    with pytest.raises(ValueError, match=r"other shapes: classifier.weight \[5, 32, 1, 1\], not \[7, 32, 1, 1\]"):
        load_checkpoint(other, path)


def test_missing_file_is_one_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent.pth cannot be read: FileNotFoundError"):
        load_backbone(built(), tmp_path / "absent.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"abc", b"PK\x03\x04 cut off", b"\x80\x02}q\x00"])
def test_unreadable_file_is_one_value_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken.pth cannot be read"):
        load_checkpoint(built(), path)


def test_truncated_file_is_one_value_error(tmp_path: Path) -> None:
    path = saved(built().state_dict(), tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"weights.pth cannot be read"):
        load_checkpoint(built(), path)


@pytest.mark.parametrize("content", [[1, 2], {"model": {"epoch": 3}}, torch.zeros(1)])
def test_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(ValueError, match="hold no state dict"):
        load_checkpoint(built(), saved(content, tmp_path))


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    path = tmp_path / "file"
    path.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()
