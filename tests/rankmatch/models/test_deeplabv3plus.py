import json
from collections.abc import Callable, Mapping
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2

from rankmatch.config import ModelConfig
from rankmatch.models import DeepLabV3Plus, build_model

PUBLISHED = [("resnet50", 21), ("resnet101", 19), ("xception", 81)]
SMALL = ModelConfig(backbone="mobilenet_v2", num_classes=5, width=0.25)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_model() -> DeepLabV3Plus:
    return build_model(SMALL, generator()).double().eval()


def random_images(size: int = 65) -> Tensor:
    return torch.randn(2, 3, size, size, generator=generator(), dtype=torch.float64)


def reference_value(name: str, shape: torch.Size) -> Tensor:
    value = np.random.default_rng(crc32(name.encode()) + 1).standard_normal(tuple(shape))
    if name.endswith("running_var"):
        value = 0.1 * np.abs(value) + 1
    elif len(shape) == 4:
        value = value * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("weight"):
        value = 1 + 0.1 * value
    else:
        value = 0.1 * value
    return torch.from_numpy(value)


def fill_by_name(model: nn.Module) -> None:
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            value.copy_(reference_value(name, value.shape))


def random_keep(model: DeepLabV3Plus) -> tuple[Tensor, Tensor]:
    draws = generator()
    low, high = (torch.rand(2, num, generator=draws) < 0.5 for num in (model.low_channels, model.high_channels))
    return low, high


@pytest.mark.parametrize(("backbone", "num_classes"), PUBLISHED)
def test_names_and_shapes_are_those_of_the_public_checkpoints(backbone: str, num_classes: int) -> None:
    file = Path(__file__).parents[1] / "golden" / "state_dict_keys.json"
    expected = json.loads(file.read_text())[backbone]
    model = build_model(ModelConfig(backbone=backbone, num_classes=num_classes), generator())
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == expected


@pytest.mark.parametrize(("backbone", "num_classes"), PUBLISHED)
def test_outputs_equal_the_reference(golden: Mapping[str, np.ndarray], backbone: str, num_classes: int) -> None:
    model = build_model(ModelConfig(backbone=backbone, num_classes=num_classes), generator()).double().eval()
    fill_by_name(model)
    images = np.random.default_rng(8).standard_normal((2, 3, 65, 65)).astype(np.float32).astype(np.float64)
    with torch.no_grad():
        logits, features = (values.numpy() for values in model(torch.from_numpy(images)))
    sampled = {key: golden[f"model_{backbone}_{key}"] for key in ("logits_sample", "features_sample", "stats")}
    scale = np.abs(sampled["logits_sample"]).max()
    np.testing.assert_allclose(logits[:, :, ::8, ::8], sampled["logits_sample"], rtol=1e-6, atol=1e-9 * scale)
    np.testing.assert_allclose(features[:, ::16], sampled["features_sample"], rtol=1e-6, atol=1e-9)
    stats = [logits.mean(), logits.std(ddof=1), features.mean(), features.std(ddof=1)]
    np.testing.assert_allclose(stats, sampled["stats"], rtol=1e-6)


@pytest.mark.parametrize(("size", "stride", "expected"), [(129, 16, 9), (321, 16, 21), (129, 8, 17)])
def test_features_have_the_grid_of_the_output_stride(size: int, stride: int, expected: int) -> None:
    model = build_model(
        ModelConfig(backbone="mobilenet_v2", num_classes=5, output_stride=stride, width=0.25), generator()
    ).eval()
    with torch.no_grad():
        logits, features = model(torch.zeros(1, 3, size, size))
    assert features.shape == (1, 32, expected, expected)
    assert logits.shape == (1, 5, size, size)


@pytest.mark.parametrize("backbone", ["resnet50", "xception"])
def test_output_stride_8_has_the_same_parameters_on_a_finer_grid(backbone: str) -> None:
    coarse, fine = (
        build_model(ModelConfig(backbone=backbone, output_stride=stride), generator()).eval() for stride in (16, 8)
    )
    fine.load_state_dict(coarse.state_dict())
    with torch.no_grad():
        assert fine(torch.zeros(1, 3, 65, 65))[1].shape == (1, 256, 9, 9)


@pytest.mark.parametrize(
    ("width", "head", "low", "high"), [(1.0, 128, 24, 320), (0.5, 64, 16, 160), (0.35, 48, 8, 112)]
)
def test_width_scales_mobilenet_and_its_head(width: float, head: int, low: int, high: int) -> None:
    model = build_model(ModelConfig(backbone="mobilenet_v2", num_classes=5, width=width), generator())
    assert (model.classifier.in_channels, model.low_channels, model.high_channels) == (head, low, high)


@pytest.mark.parametrize(("stride", "step"), [(16, 2), (8, 4)])
def test_dilated_mobilenet_equals_torchvisions_on_its_coarser_grid(stride: int, step: int) -> None:
    config = ModelConfig(backbone="mobilenet_v2", output_stride=stride, width=0.25)
    dense = build_model(config, generator()).double().eval().backbone
    strided = mobilenet_v2(width_mult=0.25).features[:18].double().eval()
    strided.load_state_dict(dense.state_dict())
    with torch.no_grad():
        low, high = dense(random_images(129))
        torch.testing.assert_close(low, strided[:4](random_images(129)))
        torch.testing.assert_close(high[:, :, ::step, ::step], strided(random_images(129)))


def test_perturbed_logits_are_decoded_from_kept_channels_times_two() -> None:
    model, images = small_model(), random_images()
    keep = random_keep(model)
    with torch.no_grad():
        logits, perturbed, features = model(images, perturb=True, keep=keep)
        low, high = model.backbone(images)
        low, high = low * 2 * keep[0][:, :, None, None], high * 2 * keep[1][:, :, None, None]
        torch.testing.assert_close(perturbed, model.decode(low, high, images.shape[-2:])[0])
        torch.testing.assert_close((logits, features), model(images))
        assert torch.equal(perturbed, model(images, perturb=True, keep=keep)[1])
    assert not torch.allclose(perturbed, logits)


def test_missing_keep_draws_channel_dropout_low_before_high(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = small_model(), random_images()
    drawn: list[Tensor] = []
    dropout2d: Callable[..., Tensor] = F.dropout2d

    def recorded(values: Tensor, p: float) -> Tensor:
        dropped = dropout2d(values, p)
        drawn.append((dropped != 0).any(dim=(2, 3)) | (values == 0).all(dim=(2, 3)))
        return dropped

    monkeypatch.setattr(F, "dropout2d", recorded)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        drawn_logits = model(images, perturb=True)[1]
        kept_logits = model(images, perturb=True, keep=(drawn[0], drawn[1]))[1]
    assert [kept.shape[1] for kept in drawn] == [model.low_channels, model.high_channels]
    torch.testing.assert_close(drawn_logits, kept_logits)


def test_batch_norms_of_the_head_see_both_halves_in_training() -> None:
    model, images = small_model().train(), random_images()
    seen: list[int] = []
    model.classifier.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
    model(images, perturb=True, keep=random_keep(model))
    assert seen == [4]


def test_xception_keeps_its_slow_batch_norms_when_workers_share_them() -> None:
    backbone = build_model(ModelConfig(backbone="xception"), generator()).backbone
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 132 and {norm.momentum for norm in norms} == {0.0003}
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(backbone)
    assert {norm.momentum for norm in converted.modules() if isinstance(norm, nn.SyncBatchNorm)} == {0.0003}


def test_initialisation_depends_on_the_generator_alone() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = build_model(SMALL, generator(7)).state_dict()
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        second = build_model(SMALL, generator(7)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build_model(SMALL, generator(8)).state_dict()
    assert not torch.equal(first["backbone.0.0.weight"], other["backbone.0.0.weight"])


def test_every_parameter_gets_a_gradient() -> None:
    model, images = small_model().train(), random_images()
    logits, perturbed, features = model(images, perturb=True, keep=random_keep(model))
    (logits.square().mean() + perturbed.square().mean() + features.mean()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_channels_last_gives_the_same_outputs() -> None:
    model, images = small_model(), random_images()
    with torch.no_grad():
        expected = model(images)
        actual = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected)


def test_batch_norms_can_be_converted_to_synchronised_ones() -> None:
    model = build_model(SMALL, generator())
    names = list(model.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert not any(type(module) is nn.BatchNorm2d for module in converted.modules())
    assert list(converted.state_dict()) == names
