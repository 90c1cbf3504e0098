from dataclasses import asdict

import pytest

from orchestration.grids.cells import compose
from orchestration.grids.identity import signature
from orchestration.grids.values import flatten
from rankmatch.config import NumericsConfig

DIFFERENCES = {
    # ALGORITHM section 5, authors_code -> paper; the weights of the unlabeled terms are the same in both
    "method.num_agents": (64, 128),
    "method.epsilon": (1e-10, 0.0),
    "method.rank_divide_by_orders": (True, False),
    "method.halve_total": (True, False),
    "trainer.learning_rate_lag": (1, 0),
    "augment.crop_size": (321, 513),
}
PASCAL = {"dataset": "pascal", "backbone.pretrained": False}


def fields(**settings):
    return flatten(asdict(compose(PASCAL | settings).numerics), NumericsConfig)


def test_presets_differ_in_the_documented_fields_alone():
    code, paper = fields(preset="authors_code"), fields(preset="paper")
    assert {name: (code[name], paper[name]) for name in code if code[name] != paper[name]} == DIFFERENCES


@pytest.mark.parametrize("order", [list(DIFFERENCES), list(reversed(DIFFERENCES))])
def test_field_by_field_one_preset_becomes_the_other(order):
    settings = PASCAL | {"preset": "authors_code"}
    seen = {signature(compose(settings).numerics)}
    for name in order:
        settings[name] = DIFFERENCES[name][1]
        seen.add(signature(compose(settings).numerics))
    assert len(seen) == 1 + len(DIFFERENCES)
    assert compose(settings).numerics == compose(PASCAL | {"preset": "paper"}).numerics


def test_other_data_sets_keep_their_crop_in_both_presets():
    for dataset, crop in (("cityscapes", 801), ("coco", 513)):
        for preset in ("authors_code", "paper"):
            settings = {"dataset": dataset, "preset": preset, "backbone.pretrained": False}
            assert compose(settings).numerics.augment.crop_size == crop
