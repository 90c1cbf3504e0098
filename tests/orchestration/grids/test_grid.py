import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.grids import grid
from orchestration.grids.values import is_axis, parse, read_axis, read_value

SMALL = """
set: {backbone: mobilenet_v2, backbone.pretrained: false, trainer.epochs: 2}
axes: {method: [supervised, rankmatch], split: [4, 12], seed: [0, 1]}
"""


def write(folder: Path, text: str, name: str = "small") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("key", "text", "values"),
    [
        ("split", "1_16", "1_16"),
        ("split", "[1_16,1_8]", ["1_16", "1_8"]),
        ("split", "1_16, 1_8", ["1_16", "1_8"]),
        ("split", "'a,b'", "a,b"),
        ("split", "null", "null"),
        ("seed", "[0,1]", [0, 1]),
        ("seed", "[3]", [3]),
        ("trainer.learning_rate", "1e-3", 0.001),
        ("trainer.learning_rate", ".5,1", [0.5, 1.0]),
        ("trainer.compile", "True,false", [True, False]),
        ("class_names", "[road, sky]", ["road", "sky"]),
        ("class_names", "road,sky", ["road", "sky"]),
        ("class_names", "[[a,b],[c,d]]", [["a", "b"], ["c", "d"]]),
        ("class_names", "[a,b],[c,d]", [["a", "b"], ["c", "d"]]),
        ("class_names", "[]", []),
        ("dataset.label_map", "{11: 255, 3:4}", {11: 255, 3: 4}),
        ("dataset.label_map", "{}", {}),
        ("dataset.label_map", "[{11: 255},{}]", [{11: 255}, {}]),
        ("dataset.colours", "[[0,0,0],[9,0,0]]", [[0, 0, 0], [9, 0, 0]]),
        ("dataset.colours", "[0,0,0],[9,0,0]", [[0, 0, 0], [9, 0, 0]]),
        ("dataset.colours", "[[[0,0,0]],[[9,0,0]]]", [[[0, 0, 0]], [[9, 0, 0]]]),
        ("data_root", "/a=b/[c]", "/a=b/[c]"),
        ("data_root", '"/a,b"', "/a,b"),
        ("data_root", "", ""),
        ("backbone.weights", "/w/{backbone}.pth", "/w/{backbone}.pth"),
    ],
)
def test_command_line_value_is_read_by_its_field(key: str, text: str, values: object) -> None:
    node = parse(key, text)
    read = read_axis(key, node) if isinstance(node, list) and is_axis(key, node) else read_value(key, node)
    assert read == values
    assert type(read) is type(values)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=[0,0]", "seed must not repeat a value; got 0 twice"),
        ("trainer.learning_rate=0.10,.1", "trainer.learning_rate must not repeat a value; got 0.1 twice"),
        ("seed=[]", "seed must have at least one value; got []"),
        ("seed=1_0", "seed must be a whole number; got '1_0'"),
        ("seed=1.0", "seed must be a whole number; got '1.0'"),
        ("seed=", "seed must be a whole number; got ''"),
        ("trainer.learning_rate=nan", "trainer.learning_rate must be a finite number; got 'nan'"),
        ("trainer.learning_rate=1e999", "trainer.learning_rate must be a finite number; got '1e999'"),
        ("trainer.compile=1", "trainer.compile must be true or false; got '1'"),
        ("seed=[0,1", "seed: ']' is missing in '[0,1'"),
        ("seed=[0]1", "seed: '1' follows a closed bracket or quote in '[0]1'"),
        ("split='a", "split: ' is not closed in \"'a\""),
        ("seed=[[0],[1]]", "seed must be one value of type int; got ['0']"),
        ("dataset.label_map={11: 255, 11: 3}", "dataset.label_map: '11' occurs twice in '{11: 255, 11: 3}'"),
        ("dataset.label_map={11: 255, 011: 3}", "dataset.label_map must name each value once; got 11, 011"),
        ("dataset.label_map=11", "dataset.label_map must be a mapping such as {11: 255}; got '11'"),
        (
            "dataset.colours=[0,0,0]",
            "dataset.colours[0] must be three numbers from 0 to 255 that are not there yet; got [0]",
        ),
        ("dataset.colours=[[0,0,a]]", "dataset.colours must be a whole number; got 'a'"),
        ("seed", "an override must be key=value; got 'seed'"),
        ("trainer.epoch=1", "unknown key 'trainer.epoch'; did you mean trainer.epochs?"),
        ("trainer.lr=1", "unknown key 'trainer.lr'; did you mean trainer.learning_rate?"),
        (
            "dataset=voc",
            "dataset must be one of camvid, cityscapes, coco, lucchi, pascal, pascal_animals, synthetic; got 'voc'",
        ),
        (
            "dataset=camvid,voc",
            "dataset must be one of camvid, cityscapes, coco, lucchi, pascal, pascal_animals, synthetic; got 'voc'",
        ),
        ("trainer.epochs=0", "trainer.epochs must be at least 1; got 0"),
        ("split=../x", "split must be the name of a folder of split lists; got '../x'"),
    ],
)
def test_wrong_override_is_refused_in_one_line(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        grid.load(write(tmp_path, ""), [override])
    assert str(caught.value) == message or str(caught.value).endswith(f": {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cells: 1", "a grid may have the keys set, axes, per, exclude, priority, baseline, table; got 'cells'"),
        ("- 1", "a grid must be a mapping with the keys set, axes, per, exclude, priority, baseline, table; got ['1']"),
        ("set: [1]", "set must be a mapping; got ['1']"),
        ("set: {seed: [0, 1]}", "set: seed must be one value; got ['0', '1'] (several values belong in axes)"),
        ("axes: {seed: 0}", "axes: seed must be a list of values; got '0'"),
        ("axes: {seed: []}", "seed must have at least one value; got []"),
        ("axes: {seed: [1, 01]}", "seed must not repeat a value; got 1 twice"),
        ("set: {seed: 1}\naxes: {seed: [0]}", "seed must be in set or in axes; it is in both"),
        ("set: {seed: 1, seed: 2}", "line 1: 'seed' occurs twice, first in line 1"),
        ("set: {trainer: {epochs: 1}}", "unknown key 'trainer'; did you mean trainer.epochs or "),
        ("axes: {seed: [0]}\nexclude: [{split: 4}]", "exclude may name the axes seed; got 'split'"),
        ("axes: {seed: [0]}\nexclude: [{seed: 7}]", "exclude: seed must be one of 0; got 7"),
        ("axes: {seed: [0]}\nexclude: {seed: 0}", "exclude must be a list; got {'seed': '0'}"),
        ("axes: {seed: [0]}\nbaseline: {method: supervised}", "baseline may name the axes seed; got 'method'"),
        (
            "axes: {seed: [0]}\ntable: {row: seed}",
            "table may have the keys rows, blocks, columns, over, published, others, names, number, adaptive; got "
            "'row'",
        ),
        ("axes: {seed: [0]}\ntable: {rows: split}", "table: rows may name the axes seed; got 'split'"),
        ("axes: {seed: [0]}\ntable: {rows: seed, over: seed}", "table must name an axis once; seed occurs twice"),
        ("set: {a: [}", "line 1: cannot be read as YAML: "),
    ],
)
def test_wrong_grid_file_is_refused_with_its_path(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        grid.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "quoted"),
    [
        (
            "data_root=w/a,b",
            "data_root has 2 values here; to give it as one text, quote it: 'data_root=\"w/a,b\"'",
        ),
        ("backbone.weights=w/a,b.pth", "'backbone.weights=\"w/a,b.pth\"'"),
        ("dataset=my,own.yaml", "'dataset=\"my,own.yaml\"'"),
        ("data_root=[x]/y", "'data_root=\"[x]/y\"'"),
        ("data_root={x}/y", "'data_root=\"{x}/y\"'"),
    ],
)
def test_path_that_was_taken_for_several_values_is_said_to_need_quotes(override: str, quoted: str) -> None:
    with pytest.raises(ValueError) as caught:
        grid.load("demo", ["backbone.pretrained=true", override])
    assert str(caught.value).endswith(quoted)
    (word,) = shlex.split(quoted[quoted.index("'") :])
    key, _, text = word.partition("=")
    assert parse(key, text) == override.partition("=")[2]


def test_other_faults_say_nothing_of_quotes(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    weights = f"backbone.weights={tmp_path}/a,{tmp_path}/b"
    with pytest.raises(ValueError, match=r"trainer.epochs must be at least 1; got 0$"):
        grid.load("demo", ["backbone.pretrained=true", weights, "trainer.epochs=0"])
    assert len(grid.load("demo", ["backbone.pretrained=true", weights]).cells) == 24


def test_unknown_grid_names_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"one of ablation_agent_selection, .*demo, .*pascal_classic; got 'demp'"):
        grid.load("demp")


def test_runs_folder_that_is_not_there_is_said_where_a_grid_is_not_known(tmp_path: Path) -> None:
    gone = tmp_path / "typo"
    for words in ("report mine", "table --grid mine", "status --grid mine", "plan --grid mine"):
        done = CliRunner().invoke(app, [*words.split(), "--runs", str(gone)])
        assert f"launched into {gone} (none: there is no such folder)" in str(done.exception)
    with pytest.raises(ValueError, match=rf"launched into {tmp_path} \(none\); got 'mine'"):
        grid.find("mine", runs=tmp_path)


def test_grid_name_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the name of a grid file must consist of letters"):
        grid.load(write(tmp_path, SMALL, "a b"))


def test_override_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="seed must be given once; it is given twice"):
        grid.load("demo", ["seed=0", "seed=1"])


def test_axes_multiply_in_their_order(tmp_path: Path) -> None:
    loaded = grid.load(write(tmp_path, SMALL))
    slugs = [cell.slug for cell in loaded.cells]
    assert slugs[:3] == ["supervised-4-s0", "supervised-4-s1", "supervised-12-s0"]
    assert len(set(slugs)) == 8
    assert loaded.cells[-1].axes == {"method": "rankmatch", "split": "12", "seed": "1"}
    assert loaded.cells[-1].config.numerics.trainer.epochs == 2
    assert loaded.name == "small"


def test_override_changes_set_reduces_and_replaces_axes(tmp_path: Path) -> None:
    overrides = ["seed=7", "split=[1_16,1_8]", "dataset=camvid", "trainer.epochs=5,6"]
    loaded = grid.load(write(tmp_path, SMALL), overrides)
    assert loaded.axes == {
        "method": ["supervised", "rankmatch"],
        "split": ["1_16", "1_8"],
        "seed": ["7"],
        "trainer.epochs": ["5", "6"],
    }
    assert {cell.config.numerics.dataset.name for cell in loaded.cells} == {"camvid"}
    assert loaded.cells[0].slug == "supervised-1_16-s7-epochs_5"


@pytest.mark.parametrize("split", ["1_16", "1_8", "092", "1e3", "on", "null", "0x10", "true"])
def test_split_name_survives_grid_file_command_line_and_resolved_text(split: str, tmp_path: Path) -> None:
    from_file = grid.load(write(tmp_path, f"axes: {{split: [{split}]}}"))
    from_line = grid.load(write(tmp_path, "", "line"), [f"split=[{split}]"])
    again = grid.load(write(tmp_path, from_line.text, "again"))
    for loaded in (from_file, from_line, again):
        assert loaded.cells[0].config.numerics.split == split
        assert loaded.cells[0].folder_name.endswith(f"-{split}")


def test_excluded_points_are_dropped(tmp_path: Path) -> None:
    text = SMALL + "exclude: [{method: supervised, split: [12]}, {seed: 1}]\n"
    assert [cell.slug for cell in grid.load(write(tmp_path, text)).cells] == [
        "supervised-4-s0",
        "rankmatch-4-s0",
        "rankmatch-12-s0",
    ]


def test_grid_without_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one cell; exclude drops all"):
        grid.load(write(tmp_path, "axes: {seed: [0]}\nexclude: [{seed: 0}]"))


def test_axis_without_effect_is_refused_with_both_cells(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cells seed=0 trainer.num_workers=1 and seed=0 trainer.num_workers=2 are the"):
        grid.load(write(tmp_path, "axes: {seed: [0], trainer.num_workers: [1, 2]}"))


def test_faulty_cell_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^cell method.top_k=9: method.top_k must be from 2 to 6; got 9$"):
        grid.load(write(tmp_path, "axes: {method.top_k: [4, 9]}"))


def test_resolved_text_gives_the_same_grid(tmp_path: Path) -> None:
    text = SMALL + "exclude: [{seed: 1, split: 12}]\nbaseline: {method: supervised}\n"
    overrides = ["data_root=somewhere", "trainer.learning_rate=1e-5", "dataset.label_map={3: 255}", "split=12,20"]
    first = grid.load(write(tmp_path, text), overrides)
    again = grid.load(write(tmp_path, first.text, "again"))
    assert [cell.config for cell in again.cells] == [cell.config for cell in first.cells]
    assert (again.axes, again.baseline, again.table) == (first.axes, first.baseline, first.table)
    assert first.cells[0].config.execution.data_root == str(Path("somewhere").absolute())


def test_table_places_every_axis_once(tmp_path: Path) -> None:
    layout = grid.load(write(tmp_path, SMALL), ["trainer.epochs=[1,2]"]).table
    assert (layout.rows, layout.columns, layout.over) == (["method"], ["split", "trainer.epochs"], ["seed"])
    placed = grid.load(write(tmp_path, SMALL + "table: {rows: [method], columns: [split]}"), ["trainer.epochs=[1,2]"])
    assert (placed.table.rows, placed.table.columns) == (["method", "trainer.epochs"], ["split"])
    assert placed.table.over == ["seed"]


def test_baseline_that_the_command_line_takes_out_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL + "baseline: {method: supervised}")
    assert grid.load(path).baseline == {"method": "supervised"}
    reduced = grid.load(path, ["method=rankmatch"])
    assert reduced.baseline == {}
    assert yaml.safe_load(reduced.text)["baseline"] == {}


@pytest.mark.parametrize(
    ("name", "num_cells"),
    [
        ("demo", 12),
        ("camvid", 15),
        ("pascal_animals", 15),
        ("pascal_classic", 120),
        ("pascal_blended", 72),
    ],
)
def test_shipped_grid_loads_without_data(name: str, num_cells: int) -> None:
    loaded = grid.load(name)
    assert len(loaded.cells) == num_cells
    assert loaded.baseline == {"method": "supervised"}
    assert grid.find(name).read_text().startswith("# ")


def test_two_thousand_cells_load() -> None:
    assert len(grid.load("demo", [f"seed={','.join(map(str, range(334)))}"]).cells) == 2004


def test_loading_a_grid_imports_no_torch_and_the_modules_no_hydra() -> None:
    code = (
        "import sys; from orchestration.grids import cells, grid, values; "
        "from orchestration.planning import costs, plan; "
        "before = 'hydra' in sys.modules; "
        "print(before, len(grid.load('demo').cells), 'hydra' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(grid.__file__).parents[2]
    )
    assert (done.stdout, done.stderr) == ("False 12 True False\n", "")
