from dataclasses import fields, replace

import pytest
import torch

import rankmatch
from rankmatch.config import UNREACHED_TAPS
from rankmatch.methods import METHODS, SETTINGS, Kind
from rankmatch.trainer import make_network
from rankmatch.unused import unused_settings

OTHERS = {
    "selection": "random", "consistency": "kl", "supervised_steps": "authors", "ohem_scope": "global",
    "cutmix_partner": "other_image", "epsilon": 1e-3, "held_out_from": "labeled", "image_bits": 12,
    "colours": [[1, 2, 3]], "hue": 0.1, "top_k": 3, "max_box_area": 0.9, "max_sigma": 3.0, "num_agents": 9,
}  # fmt: skip
"""Where another value is not found by changing the number."""


def changed(section, name):
    value = getattr(section, name)
    if name in OTHERS:
        other = OTHERS[name]
    else:
        other = not value if isinstance(value, bool) else value / 2 if isinstance(value, float) else value * 2
    return replace(section, **{name: other})


def with_all_unused_changed(config):
    numerics = config.numerics
    for path in sorted(unused_settings(numerics)):
        if path.count(".") > 1:
            continue
        section, name = path.split(".")
        numerics = replace(numerics, **{section: changed(getattr(numerics, section), name)})
    return replace(config, numerics=numerics)


def losses_and_scores(config, folder):
    rows = []
    rankmatch.fit(config, folder, lambda step, row: rows.append((step, row)))
    return [(step, row["loss"], row.get("miou"), row.get("best_miou")) for step, row in rows]


@pytest.mark.parametrize("method", METHODS)
def test_settings_that_are_called_unused_change_no_loss(method, tiny_config, tmp_path):
    torch.set_num_threads(1)
    config = tiny_config(method, epochs=1)
    other = with_all_unused_changed(config)
    assert other.numerics != config.numerics
    assert losses_and_scores(config, tmp_path / "plain") == losses_and_scores(other, tmp_path / "other")


WITHOUT_VIEWS = dict.fromkeys(("jitter_probability", "blur_probability", "cutmix_probability"), 0.0)
READ_WITH_THEM = (
    "brightness", "contrast", "saturation", "hue", "min_sigma", "max_sigma", "min_box_area", "max_box_area",
    "min_box_aspect", "cutmix_partner",
)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "augment", "unused"),
    [
        (
            {"consistency": "kl", "selection": "all"},
            WITHOUT_VIEWS,
            {"method.top_k", "method.epsilon", "method.rank_divide_by_orders", "method.num_agents"}
            | {f"augment.{name}" for name in READ_WITH_THEM},
        ),
        (
            {"weight_rank": 0.0, "ohem": True, "ohem_min_kept_per_image": 0},
            {},
            {f"method.{name}" for name in (*SETTINGS[Kind.RANK], "ohem_threshold", "ohem_scope")},
        ),
    ],
)
def test_settings_that_another_setting_makes_unused_change_no_loss_and_no_score(
    settings, augment, unused, tiny_config, tmp_path
):
    torch.set_num_threads(1)
    config = tiny_config(epochs=1, **settings)
    config = replace(config, numerics=replace(config.numerics, augment=replace(config.numerics.augment, **augment)))
    assert unused <= unused_settings(config.numerics)
    assert not unused & unused_settings(tiny_config(ohem=True).numerics)
    other = with_all_unused_changed(config)
    for path in unused:
        section, name = path.split(".")
        given, changed_to = (getattr(getattr(each.numerics, section), name) for each in (config, other))
        assert given != changed_to or path == "method.ohem_scope"  # `worker` counts workers in another field
    assert losses_and_scores(config, tmp_path / "plain") == losses_and_scores(other, tmp_path / "other")


@pytest.mark.parametrize(("crop", "is_unused"), [(288, False), (289, True)])
def test_unreached_taps_are_unused_where_the_crop_reaches_all_of_them(crop, is_unused, tiny_config):
    config = tiny_config()
    numerics = replace(config.numerics, augment=replace(config.numerics.augment, crop_size=crop))
    states = [
        make_network(
            replace(config, numerics=replace(numerics, backbone=replace(numerics.backbone, unreached_taps=taps))),
            torch.device("cpu"),
        ).state_dict()
        for taps in UNREACHED_TAPS
    ]
    assert ("backbone.unreached_taps" in unused_settings(numerics)) is is_unused
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items()) is is_unused


@pytest.mark.parametrize("method", METHODS)
def test_each_own_setting_of_a_method_is_read_by_it(method, tiny_config):
    numerics = tiny_config(method).numerics
    unused = unused_settings(numerics)
    assert not {f"method.{name}" for name in METHODS[method].settings} & unused
    assert {name.partition(".")[2] for name in unused if name.startswith("method.")} <= {
        part.name for part in fields(numerics.method)
    }
