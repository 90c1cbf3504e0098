"""What docs/new_method.md and docs/new_backbone.md show works as it stands there."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from rankmatch import fit
from rankmatch.config import BACKBONES, MethodConfig, ModelConfig
from rankmatch.methods import METHODS, Kind, Method, Term
from rankmatch.models.deeplabv3plus import ASPP, REDUCED_CHANNELS, conv_bn_relu, outline
from rankmatch.models.initialisation import initialise

ROOT = Path(__file__).resolve().parents[2]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.S | re.M)


@pytest.fixture
def added(monkeypatch):
    """The page's method, for one test."""
    methods = dict(METHODS)
    (code,) = blocks("new_method.md", "python")
    exec(code, {"METHODS": methods, "Method": Method, "Term": Term, "Kind": Kind})
    (name,) = {*methods} - {*METHODS}
    monkeypatch.setitem(METHODS, name, methods[name])
    return name


def test_method_of_the_page_is_trained_by_its_terms(added, tiny_config, tmp_path):
    rows = []
    fit(tiny_config(added, epochs=1), tmp_path, lambda *row: rows.append(str(row)))
    assert {"loss_x", "loss_s1", "loss_rank1"} == set(re.findall(r"'(loss_\w+)'", " ".join(rows)))
    losses = {"x": 1.0, "s1": 2.0, "rank1": 10.0}
    assert METHODS[added].total(losses, MethodConfig(weight_rank=0.5, halve_total=True)) == 1.5 + 5.0


def test_file_of_the_page_names_its_method(added):
    (text,) = blocks("new_method.md", "yaml")
    page = (ROOT / "docs" / "new_method.md").read_text()
    assert f"`experiments/conf/method/{added}.yaml`" in page
    there = (ROOT / "experiments/conf/method/fixmatch.yaml").read_text()
    assert text == there.replace("fixmatch", added)
    assert yaml.safe_load(text) == {"numerics": {"method": {"name": added}}}


def test_backbone_of_the_page_carries_the_network():
    (code,) = blocks("new_backbone.md", "python")
    made = {"nn": nn, "Tensor": torch.Tensor}
    exec(code, made)
    backbone = made["Plain"]()
    model = outline(ModelConfig(backbone="mobilenet_v2", num_classes=3))
    # Not by the constructor, which takes those of its list only: tests check types.
    model.backbone, model.head = backbone, ASPP(backbone.high_channels, 128)
    model.reduce = nn.Sequential(*conv_bn_relu(backbone.low_channels, REDUCED_CHANNELS))
    model.to_empty(device="cpu")
    initialise(model, backbone, torch.Generator().manual_seed(0))
    logits, features = model(torch.zeros(2, 3, 65, 65))
    assert logits.shape == (2, 3, 65, 65) and features.shape == (2, 128, 5, 5)


def test_page_names_every_file_that_names_backbones():
    page = (ROOT / "docs" / "new_backbone.md").read_text()
    named = re.findall(r"^\| `([\w/.]+)` \|", page, re.M)
    sources = [path for package in ("rankmatch", "orchestration") for path in (ROOT / package).rglob("*.py")]
    naming = [path for path in sources if '"mobilenet_v2"' in path.read_text()]
    there = [str(path.relative_to(ROOT)) for path in naming]
    there.append("experiments/conf/backbone/NAME.yaml")
    assert sorted(named) == sorted(there)
    assert {path.stem for path in (ROOT / "experiments/conf/backbone").glob("*.yaml")} == {*BACKBONES}
