import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from rankmatch.config import BACKBONES, BackboneConfig, ModelConfig, NumericsConfig, TrainConfig
from rankmatch.execution import BackboneFiles, ExecutionConfig
from rankmatch.hashing import sha256_of
from rankmatch.models import build_model
from rankmatch.models.initialisation import initialise
from rankmatch.trainer import make_network

CONFIGS = [
    ModelConfig(backbone="mobilenet_v2", num_classes=5),
    ModelConfig(backbone="resnet50"),
    ModelConfig(backbone="xception", num_classes=81),
]


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.backbone)
def test_every_layer_outside_the_backbone_starts_with_the_distribution_of_torchs_default(config: ModelConfig) -> None:
    model = build_model(config, draws())
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and not name.startswith("backbone."):
            with torch.random.fork_rng():
                default = nn.Conv2d(
                    module.in_channels, module.out_channels, module.kernel_size, bias=module.bias is not None
                )
            for ours, theirs in zip(module.parameters(), default.parameters(), strict=True):
                bound = 1 / math.sqrt(default.weight[0].numel())
                assert ours.shape == theirs.shape, name
                for start in (ours.detach(), theirs.detach()):
                    assert float(start.abs().max()) <= bound * (1 + 1e-6), name
                    assert float(start.square().mean()) == pytest.approx(bound**2 / 3, rel=4 / math.sqrt(ours.numel()))


@pytest.mark.parametrize("config", CONFIGS[:2], ids=lambda config: config.backbone)
def test_a_backbone_without_a_file_starts_kaiming_normal_and_every_norm_neutral(config: ModelConfig) -> None:
    model = build_model(config, draws())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all() & (module.bias == 0).all() & (module.running_var == 1).all())
            assert bool((module.running_mean == 0).all()) and module.num_batches_tracked == 0
    largest = max((m for m in model.backbone.modules() if isinstance(m, nn.Conv2d)), key=lambda m: m.weight.numel())
    fan_out = largest.weight.numel() / largest.in_channels * largest.groups
    assert float(largest.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


def unfilled(module: nn.Module) -> nn.Module:
    """Leave memory as `to_empty` may find it."""
    for value in (*module.parameters(), *module.buffers()):
        value.data.fill_(float("nan") if value.is_floating_point() else -7)
    return module


def test_no_parameter_or_buffer_stays_unfilled_not_even_the_biases_of_a_backbone_of_ones_own() -> None:
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1), nn.InstanceNorm2d(8, affine=True)
    )
    model = unfilled(nn.Sequential(backbone, nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.Linear(4, 2)))
    initialise(model, backbone, draws())
    for name, value in model.state_dict().items():
        assert bool(value.isfinite().all()) and bool((value != -7).all()), name
    assert bool((backbone[0].bias == 0).all()) and bool((model[2].bias != 0).all())


def test_a_module_whose_start_nobody_defined_is_refused_by_name() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU())
    with pytest.raises(ValueError, match=r"a normalisation.*got PReLU as '0.1'.*initialisation.py"):
        initialise(nn.Sequential(backbone), backbone, draws())


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Let torch fill what it hands out as raw memory: NaN, and the largest whole number."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def network_of(backbone: str, weights: Path | None) -> nn.Module:
    sha256 = sha256_of(weights) if weights else ""
    chosen = BackboneConfig(name=backbone, pretrained=weights is not None, weights_sha256=sha256)
    files = BackboneFiles(weights=str(weights or ""))
    config = TrainConfig(numerics=NumericsConfig(backbone=chosen), execution=ExecutionConfig(backbone=files))
    return make_network(config, torch.device("cpu"))


def file_of(backbone: str, folder: Path) -> Path:
    """Write weights as older files have them, without counters of batches."""
    state = build_model(ModelConfig(backbone=backbone), torch.Generator().manual_seed(1)).backbone.state_dict()
    path = folder / "weights.pth"
    torch.save({name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}, path)
    return path


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("has_file", [False, True], ids=["drawn", "from a file"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_training_starts_with_every_parameter_and_buffer_filled(
    backbone: str, has_file: bool, tmp_path: Path
) -> None:
    assert bool(torch.empty(3).isnan().all())  # raw memory shows
    weights = file_of(backbone, tmp_path) if has_file else None
    network = network_of(backbone, weights)
    named = [*network.named_parameters(), *network.named_buffers()]
    assert {name for name, _ in named} == set(network.state_dict())  # no buffer that a checkpoint would leave out
    for name, value in named:
        assert value.device.type == "cpu" and bool(value.isfinite().all()), name
        assert value.is_floating_point() or int(value) == 0, name
    if weights:
        state = network.backbone.state_dict()
        assert all(torch.equal(state[name], value) for name, value in torch.load(weights, weights_only=True).items())


class Scaled(nn.Conv2d):
    """A convolution of one's own with a value that the rule for convolutions does not know."""

    def __init__(self) -> None:
        super().__init__(8, 4, 1)
        self.scale = nn.Parameter(torch.ones(4))


class Counting(nn.GroupNorm):
    def __init__(self) -> None:
        super().__init__(2, 8)
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int64), persistent=False)


@pytest.mark.parametrize(("module", "name"), [(Scaled(), "1.scale"), (Counting(), "1.seen")])
def test_a_value_that_a_rule_leaves_out_is_refused_by_name(module: nn.Module, name: str) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), module)
    model.to_empty(device="cpu")
    with pytest.raises(ValueError, match=f"'{name}' got none: add a rule to rankmatch/models/initialisation.py"):
        initialise(model, model[0], draws())
