"""Every YAML file that people write, through what reads it: sites, data sets, grids, searches, layouts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration.grids import cells, grid
from orchestration.grids.cells import compose
from orchestration.machine import yaml_text
from orchestration.on_slurm import cluster
from orchestration.search import spaces
from orchestration.tables import layouts

DATA_SET = "numerics:\n  split: 1_16\n  dataset: {name: mine, num_classes: 3}\n"
SOUND = {
    "site": "partition: gpu\ntime_factor: 2\n",
    "data set": DATA_SET,
    "grid": "set:\n  dataset: synthetic\naxes:\n  seed: [0]\n",
    "search": "set:\n  dataset: synthetic\nsearch:\n  spaces: {augment.hue: {low: 0.1, high: 0.2}}\n",
    "layout": "rows: [seed]\ncolumns: []\n",
}


def read_layout(path: Path) -> object:
    return layouts.read_file(path, ["seed"])


READERS: dict[str, Callable[[Path], object]] = {
    "site": lambda path: cluster.load(str(path)),
    "data set": lambda path: compose({"dataset": str(path), "backbone.pretrained": False}),
    "grid": lambda path: grid.load(str(path)),
    "search": lambda path: spaces.load(str(path)),
    "layout": read_layout,
}


def refusal(kind: str, content: bytes, folder: Path) -> str:
    path = folder / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        READERS[kind](path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("kind", SOUND)
def test_sound_file_is_read(kind: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(SOUND[kind])
    assert READERS[kind](tmp_path / "mine.yaml")


@pytest.mark.parametrize("kind", SOUND)
def test_what_is_no_plain_yaml_is_refused_with_file_and_line(kind: str, tmp_path: Path) -> None:
    text = SOUND[kind]
    first, lines = text.partition(":")[0], text.count("\n")
    doubled = refusal(kind, f"{text}{first}: 1\n".encode(), tmp_path)
    assert doubled == f"line {lines + 1}: {first!r} occurs twice, first in line 1"
    tab = refusal(kind, f"{text}x:\n\ty: 1\n".encode(), tmp_path)
    assert tab == f"line {lines + 2}: cannot be read as YAML: a tab stands where YAML wants spaces"
    mark = "line 1: must be UTF-8 without a byte order mark; it is UTF-"
    assert refusal(kind, text.encode("utf-16"), tmp_path) == f"{mark}16"
    assert refusal(kind, text.encode("utf-8-sig"), tmp_path) == f"{mark}8 with a byte order mark"
    zero = "line 1: must be text in UTF-8; it holds a zero byte"
    assert refusal(kind, text.encode("utf-16-le"), tmp_path) == zero
    latin = refusal(kind, f"{text}# für\n".encode("latin-1"), tmp_path)
    assert latin == f"line {lines + 1}: must be text in UTF-8; byte 0xfc is none"
    space = refusal(kind, f"{text}x:\n\u00a0y: 1\n".encode(), tmp_path)
    assert space == f"line {lines + 2}: '\\xa0y' holds a space that is none, as copied from a page"
    assert refusal(kind, f"{text}x: [\n".encode(), tmp_path).startswith(f"line {lines + 2}: cannot be read as YAML: ")
    assert refusal(kind, f"{text}---\n{text}".encode(), tmp_path).startswith(f"line {lines + 1}: cannot be read")
    assert "must be a mapping" in refusal(kind, b"- 1\n", tmp_path)


def test_doubled_key_within_a_section_is_refused(tmp_path: Path) -> None:
    text = refusal("data set", (DATA_SET + "  split: 1_8\n").encode(), tmp_path)
    assert text == "line 4: 'split' occurs twice, first in line 2"


@pytest.mark.parametrize(
    "value", ["1:30:00", "010", "1_16", "2026_11", "1.10", "no", "~", "0x10", "2024-01-01", "1e3", "=", ".inf"]
)
def test_every_value_stays_text(value: str) -> None:
    assert yaml_text.parse(f"a: {value}\nb: [{value}]\nc: !!int {value}\n") == {"a": value, "b": [value], "c": value}


def test_values_of_a_site_are_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        "account: 2026_11\nqos: no\nextra: {comment: no, licenses: 010, nice: 5, exclusive: true}\n"
        "environment: {TOOL_VERSION: 1.10, RUN_TAG: 2026_11, EMPTY: }\nmodules: [cuda/12.4, 1.10]\n"
        "requeue: no\ncontroller: true\nmax_submit: 010\nmem_gb_per_worker: 48\ntime_factor: 1e1\n"
    )
    site = cluster.load(str(tmp_path / "site.yaml"))
    assert (site.account, site.qos) == ("2026_11", "no")
    assert site.extra == {"comment": "no", "licenses": "010", "nice": "5", "exclusive": "true"}
    assert site.environment == {"TOOL_VERSION": "1.10", "RUN_TAG": "2026_11", "EMPTY": ""}
    assert site.modules == ["cuda/12.4", "1.10"]
    assert (site.requeue, site.controller, site.max_submit) == (False, True, 10)
    assert (site.mem_gb_per_worker, site.time_factor) == (48.0, 10.0)
    words = ["cluster.environment={TOOL_VERSION: 1.10, TAG: no}", "cluster.modules=gcc,cuda", "cluster.qos=010"]
    changed = cluster.load(str(tmp_path / "site.yaml"), words)
    assert changed.environment == {"TOOL_VERSION": "1.10", "TAG": "no"}
    assert (changed.modules, changed.qos) == (["gcc", "cuda"], "010")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("account: ~", "cluster.account must have a value; without one leave its line out; got '~'"),
        ("gpus_per_node: 1_0", "cluster.gpus_per_node must be a whole number; got '1_0'"),
        ("environment: {A: [1]}", "cluster.environment must be a mapping of names to texts; got {'A': ['1']}"),
        ("modules: cuda", "cluster.modules must be a list of texts; got 'cuda'"),
        ("partition: [a]", "cluster.partition must be str; got ['a']"),
        ("partiton: a", "unknown key 'cluster.partiton'; did you mean cluster.partition?"),
    ],
)
def test_wrong_value_of_a_site_is_refused_with_its_file(text: str, message: str, tmp_path: Path) -> None:
    assert refusal("site", f"{text}\n".encode(), tmp_path) == message


def test_words_for_a_site_are_given_once_and_whole() -> None:
    with pytest.raises(ValueError, match="cluster.qos must be given once; it is given twice"):
        cluster.load("slurm", ["cluster.qos=a", "cluster.qos=b"])
    with pytest.raises(ValueError, match="must be cluster.field=value; got 'cluster.qos'"):
        cluster.load("slurm", ["cluster.qos"])


def test_data_set_that_was_put_into_the_folder_is_read_as_one_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "conf"
    (conf / "dataset").mkdir(parents=True)
    (conf / "config.yaml").write_text("defaults: [schema, {dataset: mine}, _self_]\n")
    text = (
        DATA_SET.replace("{name: mine", "{name: 1_0")
        + "execution:\n  data_root: pictures\n  class_names: [no, 010, on]\n"
    )
    (conf / "dataset" / "mine.yaml").write_text(text)
    monkeypatch.setattr(cells, "experiments_folder", lambda: tmp_path)
    for settings in ({}, {"dataset": "mine"}):
        config = compose(settings)
        assert (config.numerics.split, config.numerics.dataset.name) == ("1_16", "1_0")
        assert config.execution.class_names == ["no", "010", "on"]
        assert config.execution.data_root == str(conf / "dataset" / "pictures")


@pytest.mark.parametrize(
    "text",
    ["a: " + "[" * 100_000, "{a: " * 100_000, "- " * 100_000 + "x", "? " * 100_000,
     "".join(" " * depth + f"k{depth}:\n" for depth in range(1000))],
    ids=["lists", "mappings", "dashes", "keys", "indentation"],
)  # fmt: skip
def test_yaml_that_is_nested_without_end_is_refused_and_kills_nothing(text):
    with pytest.raises(ValueError, match="nested"):
        yaml_text.parse(text)


def test_long_lists_are_not_deep():
    assert yaml_text.parse("a: [" + "[1], " * 5000 + "]")["a"] == [["1"]] * 5000
