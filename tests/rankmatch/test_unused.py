from dataclasses import fields, replace

import pytest
import torch

import rankmatch
from rankmatch.methods import METHODS
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


@pytest.mark.parametrize("method", METHODS)
def test_settings_that_are_called_unused_change_no_loss(method, tiny_config, tmp_path):
    torch.set_num_threads(1)
    config = tiny_config(method, epochs=1)
    other = with_all_unused_changed(config)
    assert other.numerics != config.numerics
    losses = []
    for name, each in (("plain", config), ("other", other)):
        rows = []
        rankmatch.fit(each, tmp_path / name, lambda step, row, rows=rows: rows.append((step, row)))
        losses.append([(step, row["loss"], row.get("miou"), row.get("best_miou")) for step, row in rows])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("method", METHODS)
def test_each_own_setting_of_a_method_is_read_by_it(method, tiny_config):
    numerics = tiny_config(method).numerics
    unused = unused_settings(numerics)
    assert not {f"method.{name}" for name in METHODS[method].settings} & unused
    assert {name.partition(".")[2] for name in unused if name.startswith("method.")} <= {
        part.name for part in fields(numerics.method)
    }
