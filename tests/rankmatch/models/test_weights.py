import hashlib
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models import mobilenet_v2, resnet50

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


# What pickle.dumps(numpy.float64(77.5), 2), as torch.save pickles, gave under numpy 1.26.4 and 2.4.6.
_DTYPE = b"cnumpy\ndtype\nq\x01X\x02\x00\x00\x00f8q\x02\x89\x88\x87q\x03Rq\x04(K\x03X\x01\x00\x00\x00<q\x05NNN"
_DTYPE += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x06b"
_CODE = b"c_codecs\nencode\nq\x07X\x08\x00\x00\x00\x00\x00\x00\x00\x00`S@q\x08X\x06\x00\x00\x00latin1q\t\x86q\n"
_CODE += b"Rq\x0b\x86q\x0cRq\r."
NUMPY_1 = b"\x80\x02cnumpy.core.multiarray\nscalar\nq\x00" + _DTYPE + _CODE
NUMPY_2 = b"\x80\x02cnumpy._core.multiarray\nscalar\nq\x00" + _DTYPE + _CODE


def with_pickled(content: dict[str, object], pickled: bytes, folder: Path) -> Path:
    """Save a file whose last value was pickled elsewhere."""
    plain, path = saved(content | {"previous_best": 0.123}, folder), folder / "pickled.pth"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                head, mark, tail = data.partition(b"G" + struct.pack(">d", 0.123))
                assert mark
                data = head + pickled.removeprefix(b"\x80\x02").removesuffix(b".") + tail
            target.writestr(name, data)
    return path


@pytest.fixture
def mobilenet(tmp_path: Path) -> Path:
    """A file such as torchvision's weights make: its features alone, without the classifier."""
    path = tmp_path / "mobilenet_v2_imagenet.pth"
    torch.save(mobilenet_v2().features.state_dict(), path)
    return path


def test_every_tensor_of_the_mobilenet_backbone_is_filled(mobilenet: Path) -> None:
    model = built(config=ModelConfig(backbone="mobilenet_v2"))
    load_backbone(model, mobilenet)
    file = torch.load(mobilenet, weights_only=True)
    state = backbone_state(model)
    assert set(file) - set(state) == {name for name in file if name.startswith("18.")}
    assert all(torch.equal(state[name], file[name]) for name in state)


def test_mobilenet_weights_are_refused_for_another_width(mobilenet: Path) -> None:
    with pytest.raises(
        ValueError, match=r"mobilenet_v2_imagenet.pth .* 0.0.weight \[32, 3, 3, 3\], not \[8, 3, 3, 3\]"
    ):
        load_backbone(built(), mobilenet)


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


PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "model._orig_mod."]
PREFIXES += ["model.module.", "net.module.", "model._orig_mod.module.", "module.model.module.", "network.model.module."]
NESTS = ["", "state_dict", "model_state", "teacher_state", "model_ema", "any.deeper"]


@pytest.mark.parametrize(
    ("prefix", "nest"), [("", ""), *((prefix, "model") for prefix in PREFIXES), *(("module.", nest) for nest in NESTS)]
)
def test_checkpoints_load_with_prefix_and_nesting(tmp_path: Path, prefix: str, nest: str) -> None:
    source, model = built(1), built(2)
    content: dict[str, object] = {prefix + name: value for name, value in source.state_dict().items()}
    for part in reversed(nest.split(".") if nest else []):
        content = {part: content, "epoch": 3, "totals": {"loss": torch.zeros(2)}}
    load_checkpoint(model, saved(content, tmp_path))
    assert_same_state(model, source.state_dict())


def test_what_wrappers_add_within_names_is_taken_out(tmp_path: Path) -> None:
    source, model = built(1), built(2)
    state = {name.replace("backbone.", "backbone._orig_mod."): value for name, value in source.state_dict().items()}
    averaged = {f"module.{name}": value for name, value in state.items()} | {"n_averaged": torch.tensor(5)}
    load_checkpoint(model, saved(averaged, tmp_path))
    assert_same_state(model, source.state_dict())


def test_name_with_and_without_a_wrapper_is_refused(tmp_path: Path) -> None:
    state = built(1).state_dict()
    name = next(iter(state))
    with pytest.raises(ValueError, match="have a name twice, with and without what a wrapper adds to it"):
        load_checkpoint(built(), saved(state | {f"module.{name}": state[name]}, tmp_path))


def test_of_several_nests_one_is_to_be_chosen(tmp_path: Path) -> None:
    student, teacher, model = built(1), built(2), built(3)
    path = saved({"model": student.state_dict(), "model_ema": {"module": teacher.state_dict()}}, tmp_path)
    with pytest.raises(
        ValueError, match=r"hold several state dicts \(model, model_ema.module\); choose one: --nest NAME$"
    ):
        load_checkpoint(model, path)
    load_checkpoint(model, path, "model_ema.module")
    assert_same_state(model, teacher.state_dict())
    with pytest.raises(ValueError, match="hold model, model_ema.module; there is no 'ema'"):
        load_checkpoint(model, path, "ema")
    with pytest.raises(ValueError, match="hold bare tensors, without a nest; there is no 'model'"):
        load_checkpoint(model, saved(student.state_dict(), tmp_path), "model")


def test_nest_of_a_backbone_file_is_chosen_by_its_setting(tmp_path: Path) -> None:
    one, other, model = built(1), built(2), built(3)
    path = saved({"state_dict": backbone_state(one), "state_dict_ema": backbone_state(other)}, tmp_path)
    with pytest.raises(ValueError, match="choose one: backbone.weights_nest=NAME"):
        check_backbone(SMALL, path)
    check_backbone(SMALL, path, "state_dict_ema")
    load_backbone(model, path, "state_dict_ema")
    assert all(torch.equal(value, backbone_state(model)[name]) for name, value in backbone_state(other).items())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html><title>Sign in</title>", "the file is an HTML page, which a download link"),
        (b"\xef\xbb\xbf\n  <html lang=en>", "the file is an HTML page, which a download link"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "the file is a Git LFS pointer: ",
        ),
        (b"/annex/objects/SHA256E-s1--ab.pth\n", "the file is a git-annex pointer: "),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "the file is an XML text"),
        (b'{"message": "Not Found"}', "the file is a JSON text"),
        (b"\x1f\x8b\x08\x00", "the file is packed by gzip"),
        (b"\x20\x00\x00\x00\x00\x00\x00\x00" + b'{"a":{"dtype":"F32"}}', "the file is a safetensors file"),
        (b"\x00" * 600, "the file begins with zeros only"),
        (b"", "the file is empty"),
        (b"PK\x03\x04 cut off", "it is cut off"),
    ],
)
def test_file_that_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"weights .*weights.pth cannot be read: {words}") as caught:
        load_backbone(built(), path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pickled", [NUMPY_1, NUMPY_2])
def test_checkpoint_with_a_numpy_scalar_loads_as_either_version_wrote_it(tmp_path: Path, pickled: bytes) -> None:
    assert float(pickle.loads(pickled)) == 77.5
    source, model = built(1), built(2)
    load_checkpoint(model, with_pickled({"model": source.state_dict()}, pickled, tmp_path))
    assert_same_state(model, source.state_dict())


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), np.float16(0.5)])
def test_every_float_of_this_numpy_is_read(tmp_path: Path, number: object) -> None:
    source, model = built(1), built(2)
    load_checkpoint(model, saved({"model": source.state_dict(), "previous_best": number}, tmp_path))
    assert_same_state(model, source.state_dict())


@pytest.mark.parametrize(
    ("value", "name"),
    [(np.int64(3), "numpy.dtypes.Int64DType"), (np.zeros(2), "numpy._core.multiarray._reconstruct")],
)
def test_nothing_else_of_numpy_is_read(tmp_path: Path, value: object, name: str) -> None:
    with pytest.raises(ValueError, match=rf"cannot be read: it holds {name}, and only tensors and plain values"):
        load_checkpoint(built(), saved({"model": built().state_dict(), "value": value}, tmp_path))


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


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    model = built(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = built(2).state_dict()
    state["classifier.weight"] = state["classifier.weight"].to(dtype)
    path = saved(state, tmp_path)
    with pytest.raises(
        ValueError,
        match=rf"weights.pth must be floating-point numbers; others have classifier.weight {str(dtype)[6:]}: save them",
    ):
        load_checkpoint(model, path)
    assert_same_state(model, before)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(float("nan"), torch.float32), (float("-inf"), torch.float16), (1e300, torch.float64)],  # beyond float32
)
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    state = backbone_state(built(1))
    state["0.1.running_var"] = state["0.1.running_var"].to(dtype)
    state["0.1.running_var"][3] = value
    path = saved(state, tmp_path)
    for read in (lambda: check_backbone(SMALL, path), lambda: load_backbone(built(), path)):
        with pytest.raises(
            ValueError, match=r"weights.pth must be finite; NaN or infinity is in 0.1.running_var: take another file$"
        ):
            read()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_floating_point_type_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    model = built(2)
    state = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in built(1).state_dict().items()
    }
    load_checkpoint(model, saved(state, tmp_path))
    assert_same_state(model, {name: value.to(model.state_dict()[name].dtype) for name, value in state.items()})


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


@pytest.mark.parametrize(
    ("content", "words"),
    [([1, 2], "a list"), ({"model": {"epoch": 3}}, "keys are model"), (torch.zeros(1), "a Tensor"), ({}, "(none)")],
)
def test_file_without_a_state_dict_is_refused(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(ValueError, match="hold no state dict") as caught:
        load_checkpoint(built(), saved(content, tmp_path))
    assert str(caught.value).endswith(words)


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    path = tmp_path / "file"
    path.write_bytes(content)
    assert sha256_of(path) == hashlib.sha256(content).hexdigest()
