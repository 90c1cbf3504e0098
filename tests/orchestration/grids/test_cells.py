from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from orchestration.grids import cells, inputs
from orchestration.grids.cells import Cell, compose, from_yaml, to_yaml
from orchestration.grids.described import describe
from orchestration.grids.identity import signature
from orchestration.runs.run_folder import RunFolder
from rankmatch.config import NumericsConfig, OptimisationConfig, TrainConfig

SPLITS = ["1_16", "1_8", "092", "1e3", "on", "null", "~", "0x10", "1.0", "2024-01-01", "true", "u2pl_1_16"]
COMMITTED = yaml.load((Path(__file__).parents[1] / "signatures.yaml").read_text(), yaml.BaseLoader)


@pytest.mark.parametrize("split", SPLITS)
def test_split_name_stays_text_from_setting_to_folder(split: str) -> None:
    cell = Cell(compose({"split": split}), {"split": split})
    assert cell.config.numerics.split == split
    assert cell.folder_name == f"{cell.signature}-{split.replace('~', '_')}"
    assert from_yaml(to_yaml(cell.config)) == cell.config


@pytest.mark.parametrize("expected", COMMITTED)
def test_committed_configuration_keeps_its_signature(expected: str) -> None:
    assert signature(from_yaml(COMMITTED[expected]).numerics) == expected


def test_signature_ignores_execution_and_sees_every_number() -> None:
    plain = compose({})
    elsewhere = compose({"trainer.device": "cpu", "data_root": "/data", "trainer.num_data_workers": 3})
    assert signature(elsewhere.numerics) == signature(plain.numerics)
    others = [{"seed": 1}, {"split": "5"}, {"trainer.compile": True}, {"trainer.precision": "bfloat16"}]
    assert len({signature(compose(other).numerics) for other in [{}, *others]}) == 5


def test_signature_does_not_tell_1_from_1_0() -> None:
    numerics = NumericsConfig()
    whole = replace(numerics, trainer=replace(numerics.trainer, head_lr_multiplier=10))
    assert signature(whole) == signature(numerics)


def test_signature_changes_with_the_code_number(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signature(NumericsConfig())
    monkeypatch.setattr("rankmatch.NUMERICS", 1000)
    assert signature(NumericsConfig()) != before


def test_later_field_counts_only_when_it_is_not_neutral() -> None:
    @dataclass(kw_only=True, slots=True)
    class Section:
        factor: float = field(default=1.0, metadata={"neutral": 1.0})

    @dataclass(kw_only=True)
    class Later(NumericsConfig):
        later: int = field(default=3, metadata={"neutral": 0})
        section: Section = field(default_factory=Section)

    assert signature(Later(later=0)) == signature(NumericsConfig())
    assert (
        len({signature(Later()), signature(Later(later=0)), signature(Later(later=0, section=Section(factor=2)))}) == 3
    )


def test_configuration_older_than_a_field_reads_its_neutral_value(monkeypatch: pytest.MonkeyPatch) -> None:
    text = to_yaml(compose({})).replace("    compile: false\n", "").replace("    log_every_steps: 10\n", "")
    with pytest.raises(ValueError, match=r"^field numerics.trainer.compile is missing$"):
        from_yaml(text)
    compiled = next(part for part in fields(OptimisationConfig) if part.name == "compile")
    monkeypatch.setattr(compiled, "metadata", {"neutral": True})
    config = from_yaml(text)
    assert config.numerics.trainer.compile is True
    assert config.execution.trainer.log_every_steps == 10


def test_file_of_a_run_has_a_later_field_only_where_it_is_not_neutral() -> None:
    assert "unreached_taps" not in to_yaml(compose({})) and "held_out" not in to_yaml(compose({}))
    text = to_yaml(compose({"backbone.unreached_taps": "zero"}))
    assert "    unreached_taps: zero\n" in text and from_yaml(text).numerics.backbone.unreached_taps == "zero"
    assert from_yaml(to_yaml(compose({}), whole=True)) == from_yaml(to_yaml(compose({})))


def test_stored_configuration_that_reads_as_equal_is_not_rewritten(tmp_path: Path) -> None:
    cell = Cell(compose({}), {})
    folder = RunFolder(tmp_path / cell.folder_name)
    stored = to_yaml(cell.config, whole=True).replace("    log_every_steps: 10\n", "")  # of another version
    folder.create(stored, cell.axes)
    describe(folder, cell)
    assert folder.config() == stored
    other = Cell(compose({"trainer.device": "cpu"}), {})
    describe(folder, other)
    assert from_yaml(folder.config()) == other.config
    (folder.path / "config.yaml").write_text("")
    describe(folder, other)
    assert from_yaml(folder.config()) == other.config


def test_hand_written_configuration_keeps_an_unquoted_split() -> None:
    assert from_yaml(to_yaml(compose({"split": "1_16"})).replace("'1_16'", "1_16")).numerics.split == "1_16"


def test_every_kind_of_value_survives_the_file_of_a_run() -> None:
    settings = {
        "dataset.colours": [[0, 0, 0], [255, 0, 9]],
        "dataset.label_map": {3: 255},
        "class_names": list("abcdef"),
        "trainer.learning_rate": 1e-5,
        "split": "1_16",
    }
    config = compose(settings | {"backbone.pretrained": False})
    assert config.numerics.dataset.colours == [[0, 0, 0], [255, 0, 9]]
    assert from_yaml(to_yaml(config)) == config


def test_class_names_that_are_no_names_of_their_own_are_refused() -> None:
    for names, again in ((["ground", "box", "box"], "'box'"), (["ground", "", "box"], "''")):
        with pytest.raises(ValueError, match=f"class_names must be names that differ, .*; got {again} again"):
            compose({"dataset.num_classes": 3, "class_names": names})


def test_run_that_has_a_class_name_twice_stays_readable() -> None:
    text = to_yaml(compose({"dataset.num_classes": 3, "class_names": ["ground", "box", "lid"]}))
    assert from_yaml(text.replace("- lid", "- box")).execution.class_names == ["ground", "box", "box 2"]


def test_unknown_field_of_a_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown field 'numerics.sed'; did you mean numerics.seed"):
        from_yaml(to_yaml(compose({})).replace("  seed: 0\n  split", "  sed: 0\n  split"))


@pytest.mark.parametrize("dataset", cells.choices_of("dataset"))
@pytest.mark.parametrize("backbone", cells.choices_of("backbone"))
@pytest.mark.parametrize("method", cells.choices_of("method"))
def test_every_choice_composes(dataset: str, backbone: str, method: str) -> None:
    numerics = compose({"dataset": dataset, "backbone": backbone, "method": method}).numerics
    assert (numerics.dataset.name, numerics.backbone.name, numerics.method.name) == (dataset, backbone, method)


def test_authors_code_is_the_default_preset() -> None:
    assert compose({"dataset": "pascal"}) == compose({"dataset": "pascal", "preset": "authors_code"})


def test_presets_differ_as_paper_and_code_do() -> None:
    code, paper = (compose({"dataset": "pascal", "preset": name}).numerics for name in ("authors_code", "paper"))
    names = ("num_agents", "epsilon", "rank_divide_by_orders", "halve_total")
    assert [getattr(code.method, name) for name in names] == [64, 1e-10, True, True]
    assert [getattr(paper.method, name) for name in names] == [128, 0.0, False, False]
    assert (code.augment.crop_size, paper.augment.crop_size) == (321, 513)
    assert (code.trainer.learning_rate_lag, paper.trainer.learning_rate_lag) == (1, 0)


def test_pascal_has_the_published_protocol() -> None:
    numerics = compose({"dataset": "pascal"}).numerics
    trainer = numerics.trainer
    assert (trainer.epochs, trainer.labeled_batch_size, trainer.unlabeled_batch_size) == (80, 8, 8)
    assert (trainer.learning_rate, trainer.head_lr_multiplier, trainer.reference_batch_size) == (0.001, 10, 8)
    assert (numerics.method.confidence_threshold, numerics.method.supervised_steps) == (0.95, "authors")
    assert (numerics.dataset.num_classes, numerics.evaluation.mode, numerics.method.ohem) == (21, "whole", False)


def test_camvid_ignores_its_unlabeled_class() -> None:
    assert compose({"dataset": "camvid"}).numerics.dataset.label_map == {11: 255}


def test_cells_share_no_mutable_value() -> None:
    first, second = (compose({"dataset": "camvid", "seed": seed}) for seed in (0, 1))
    first.numerics.dataset.label_map[1] = 255
    first.execution.class_names.clear()
    assert second.numerics.dataset.label_map == {11: 255}
    assert len(second.execution.class_names) == 11


def test_settings_may_repair_what_a_choice_alone_would_break() -> None:
    with pytest.raises(ValueError, match="method.num_agents must be at most 81"):
        compose({"preset": "paper"})
    assert compose({"preset": "paper", "method.num_agents": 16}).numerics.method.num_agents == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"dataset": "voc"},
            "dataset must be one of camvid, cityscapes, coco, lucchi, pascal, pascal_animals, synthetic; got 'voc'",
        ),
        ({"method": "rank"}, "method must be one of fixmatch, rankmatch, supervised, unimatch; got 'rank'"),
        ({"trainer.epoch": 1}, "unknown key 'trainer.epoch'; did you mean trainer.epochs?"),
        ({"numerics.seed": 1}, "unknown key 'numerics.seed'; did you mean seed?"),
        ({"backbone.weights": "/none.pth"}, "backbone.weights must be a file; there is none at '/none.pth'"),
        ({"backbone.weights_sha256": "0"}, "backbone.weights_sha256 cannot be set: "),
        ({"trainer.epochs": 0}, "trainer.epochs must be at least 1; got 0"),
    ],
)
def test_wrong_setting_is_refused_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        compose(settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("numerics: {trainer: {epoch: 5}}", ["numerics.trainer.epoch", "did you mean numerics.trainer.epochs?"]),
        ("numerics: {trainer: {epochs: many}}", ["trainer.epochs must be a whole number", "'many'", "mine.yaml"]),
        ("numerics: {trainer: [", ["mine.yaml"]),
    ],
)
def test_wrong_choice_file_is_refused_in_one_line(
    content: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "conf"
    (conf / "dataset").mkdir(parents=True)
    (conf / "config.yaml").write_text("defaults: [schema, {dataset: mine}, _self_]\n")
    (conf / "dataset" / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
    monkeypatch.setattr(cells, "experiments_folder", lambda: tmp_path)
    with pytest.raises(ValueError) as caught:
        compose({})
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in [*words, str(conf)])


def test_weights_count_by_content_not_by_place(tmp_path: Path) -> None:
    for name in ("resnet50.pth", "copy.pth"):
        (tmp_path / name).write_bytes(b"weights")
    first = compose({"backbone.weights": str(tmp_path / "{backbone}.pth")})
    second = compose({"backbone.weights": str(tmp_path / "copy.pth")})
    assert first.execution.backbone.weights == str(tmp_path / "resnet50.pth")
    assert first.numerics.backbone.weights_sha256 == sha256(b"weights").hexdigest()
    assert signature(first.numerics) == signature(second.numerics) != signature(compose({}).numerics)


def test_nest_of_the_weights_is_part_of_the_identity_once_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    settings = {"backbone.weights": str(tmp_path / "w.pth")}
    plain, ema = (compose(settings | more).numerics for more in ({}, {"backbone.weights_nest": "state_dict_ema"}))
    assert signature(plain) == signature(compose(settings | {"backbone.weights_nest": ""}).numerics) != signature(ema)
    with pytest.raises(ValueError, match="weights_nest must not be given when backbone.pretrained is false"):
        compose({"backbone.pretrained": False, "backbone.weights_nest": "ema"})


def test_missing_inputs_are_named() -> None:
    missing = inputs.missing_inputs(Cell(compose({"dataset": "camvid", "split_root": "/none"}), {}))
    assert [line.split(" must be ")[0] for line in missing] == ["backbone.weights", "data_root", "split_root"]


def test_drawn_scenes_with_random_weights_miss_nothing() -> None:
    assert inputs.missing_inputs(Cell(compose({"backbone.pretrained": False}), {})) == []


def test_slug_joins_the_axes() -> None:
    config = compose({"split": "1_16"})
    assert Cell(config, {"method": "rankmatch", "split": "1_16", "seed": "0"}).slug == "rankmatch-1_16-s0"
    assert Cell(config, {}).slug == "rankmatch-1_16-s0"
    assert Cell(config, {"trainer.learning_rate": "0.01", "class_names": "[a b,c/d]"}).slug == (
        "learning_rate_0.01-class_names__a_b_c_d_"
    )


def test_every_default_of_the_schema_survives_composition() -> None:
    assert compose({"trainer.num_checkpoints": 7}).execution.trainer.num_checkpoints == 7
    assert compose({}).execution == TrainConfig().execution


OWN = """
numerics:
  split: "2"
  dataset: {name: mine, num_classes: 3, label_map: {7: 255}}
  augment: {crop_size: 241}
execution:
  data_root: pictures
"""


def test_data_set_of_ones_own_is_composed_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(OWN)
    settings = {"dataset": str(tmp_path / "mine.yaml"), "backbone.pretrained": False}
    config = compose(settings | {"preset": "paper"})
    assert config.numerics.dataset.name == "mine" and config.numerics.dataset.label_map == {7: 255}
    assert (config.numerics.augment.crop_size, config.numerics.method.num_agents) == (241, 128)
    assert config.execution.data_root == str(tmp_path / "pictures")
    (tmp_path / "moved.yaml").write_text(OWN.replace("pictures", "elsewhere"))
    moved = compose(settings | {"dataset": str(tmp_path / "moved.yaml")})
    assert signature(moved.numerics) == signature(compose(settings).numerics)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "numerics: {dataset: {num_classes: 3}}",
            "numerics.dataset.name must be a name of the data set's own; got None",
        ),
        ("- 1", "a configuration must be a mapping; got ['1']"),
        ("{", "cannot be read as YAML: "),
        ("numerics:", "numerics must be a mapping of fields; got ''"),
        (OWN.replace("{name: mine, num_classes: 3, label_map: {7: 255}}", "7"), "numerics.dataset must be a mapping"),
        (OWN.replace("crop_size", "crop_siz"), "augment.crop_siz"),
        (OWN.replace("241", "many"), "augment.crop_size must be a whole number; got 'many'"),
        (OWN.replace("7: 255", "a: 255"), "dataset.label_map must be a whole number; got 'a'"),
        (OWN + "  backbone: {weights: a}\n  trainer: 1", "execution.trainer must be a mapping of fields; got '1'"),
        (OWN.replace("augment: {crop_size", "backbone: {weights_sha256"), "weights_sha256 cannot be set"),
    ],
)
def test_wrong_file_of_a_data_set_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError) as caught:
        compose({"dataset": str(tmp_path / "mine.yaml"), "backbone.pretrained": False})
    assert str(caught.value).startswith(f"{tmp_path / 'mine.yaml'}: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_split_of_a_data_set_of_ones_own_needs_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(OWN.replace('"2"', "1_16"))
    config = compose({"dataset": str(tmp_path / "mine.yaml"), "backbone.pretrained": False})
    assert config.numerics.split == "1_16"


def test_missing_file_of_a_data_set_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"dataset must be an existing YAML file; got 'none.yaml', and there is no /.*/none"
    ):
        compose({"dataset": "none.yaml"})
