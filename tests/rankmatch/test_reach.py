"""Taps of the ASPP that a crop's grid does not reach: counted without torch, and true of the network as it trains."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from rankmatch.config import BackboneConfig, ModelConfig, NumericsConfig, TrainConfig
from rankmatch.models import build_model
from rankmatch.models.deeplabv3plus import silence_unreached
from rankmatch.reach import RATES, num_unreached, smallest_crop, unreached_rates
from rankmatch.trainer import make_network

CONFIG = ModelConfig(backbone="mobilenet_v2", num_classes=3, width=0.25)


@pytest.mark.parametrize(
    ("grid", "rates", "taps"), [(6, RATES, 24), (9, (12, 18), 16), (13, (18,), 8), (18, (18,), 8), (19, (), 0)]
)
def test_grid_reaches_no_tap_as_far_from_the_centre_as_it_is_wide(grid: int, rates: tuple[int, ...], taps: int) -> None:
    assert unreached_rates(grid) == rates
    assert num_unreached(rates) == taps


def test_a_grid_that_is_scored_meets_no_taps_beyond_its_own_size() -> None:
    assert unreached_rates(9, met_by=10) == ()
    assert unreached_rates(9, met_by=13) == (12,)


@pytest.mark.parametrize(("stride", "crop"), [(16, 289), (8, 145)])
def test_smallest_crop_that_trains_every_tap_is_one_pixel_above_one_that_does_not(stride: int, crop: int) -> None:
    assert smallest_crop(stride) == crop
    assert [unreached_rates(-(-size // stride)) for size in (crop - 1, crop)] == [(18,), ()]


def test_counting_needs_no_torch() -> None:
    code = "import sys, rankmatch.reach; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize("crop", [97, 129, 193])
def test_taps_that_are_not_reached_get_no_gradient_and_all_others_do(crop: int) -> None:
    model = build_model(CONFIG, torch.Generator().manual_seed(0))
    logits, _ = model(torch.randn(2, 3, crop, crop, generator=torch.Generator().manual_seed(1)))
    logits.square().mean().backward()
    unreached = unreached_rates(-(-crop // 16))
    for conv in model.head.dilated:
        taps = conv.weight.grad.abs().amax(dim=(0, 1)).flatten()
        is_trained = taps > 0
        assert int((~is_trained).sum()) == (8 if conv.dilation[0] in unreached else 0)
        assert bool(is_trained[4])


def test_silenced_taps_change_nothing_at_the_crop_and_make_them_padding_where_more_is_seen() -> None:
    model = build_model(CONFIG, torch.Generator().manual_seed(0)).eval()
    crop, image = (torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1)) for size in (129, 257))
    with torch.no_grad():
        before, larger_before = model(crop)[1], model(image)[1]
        silence_unreached(model, 9)
        after, larger_after = model(crop)[1], model(image)[1]
    torch.testing.assert_close(after, before)
    difference = (larger_after - larger_before).abs().amax(dim=(0, 1))
    assert float(difference.max()) > 0.001 * float(larger_before.max())
    assert bool((difference[:5] > 1e-7).any()), "at the borders, from the side that is there"


def numerics(taps: str) -> NumericsConfig:
    backbone = BackboneConfig(name="mobilenet_v2", width=0.25, pretrained=False, unreached_taps=taps)
    return replace(NumericsConfig(), backbone=backbone, augment=replace(NumericsConfig().augment, crop_size=129))


def test_setting_zeroes_the_taps_of_a_new_network_and_draws_the_rest_as_before() -> None:
    random, zero = (
        make_network(TrainConfig(numerics=numerics(taps)), torch.device("cpu")) for taps in ("random", "zero")
    )
    theirs = zero.state_dict()
    for name, value in random.state_dict().items():
        if name in ("head.b2.0.weight", "head.b3.0.weight"):
            assert bool(theirs[name].amax(dim=(0, 1)).flatten()[[0, 1, 2, 3, 5, 6, 7, 8]].eq(0).all())
            torch.testing.assert_close(theirs[name][..., 1, 1], value[..., 1, 1])
        else:
            torch.testing.assert_close(theirs[name], value)


def test_setting_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="backbone.unreached_taps must be one of random, zero; got 'none'"):
        BackboneConfig(unreached_taps="none")
