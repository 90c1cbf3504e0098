from pathlib import Path

import pytest

from rankmatch.config import DatasetConfig, MethodConfig, NumericsConfig, TrainConfig
from rankmatch.data.catalog import Sample
from rankmatch.data.lists import frame_of, line_of, same_image, words_of
from rankmatch.data.splits import read_splits, read_val, split_sha256
from rankmatch.execution import ExecutionConfig


def config(root: Path, **lists: str) -> TrainConfig:
    (root / "splits/2").mkdir(parents=True)
    places = {"labeled": "2/labeled.txt", "unlabeled": "2/unlabeled.txt", "train": "train.txt", "val": "val.txt"}
    for name, text in ({"labeled": "l l", "unlabeled": "u", "val": "v v"} | lists).items():
        (root / "splits" / places[name]).write_text(text, encoding="utf-8")
    numerics = NumericsConfig(split="2", dataset=DatasetConfig(name="mine"), method=MethodConfig(name="unimatch"))
    return TrainConfig(numerics=numerics, execution=ExecutionConfig(data_root=str(root)))


NAMES = [
    "a.png",
    "my photo.jpg",
    'say "x".png',
    '"a".png',
    '"a"',
    "tab\there.png",
    "a\u202fb.png",
    "v.tif#12",
    "#",
    "é 日",
]


@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize("second", NAMES)
def test_line_that_is_written_is_read_as_the_same_names(first: str, second: str):
    assert words_of(line_of(first, second)) == [first, second]
    assert words_of(line_of(first)) == [first]


def test_names_without_spaces_are_written_as_ever():
    assert line_of("JPEGImages/1.jpg", "SegmentationClass/1.png") == "JPEGImages/1.jpg SegmentationClass/1.png"


@pytest.mark.parametrize("name", ["a\nb.png", "a\u2028b.png", "v.tif#0-3", "\udcff.png"])
def test_name_that_no_line_can_hold_is_refused(name: str):
    with pytest.raises(ValueError, match="no line of a split list can name .*: rename the file"):
        line_of(name, "b.png")


@pytest.mark.parametrize("line", [
    "a.png b.png", "  a.png \t b.png ", "a.png\tb.png\t", "a.png\t\tb.png", "a\u00a0b.png", 'a"b.png c".png',
    '"a b.png', "a.png", "\ta.png b.png\t",
])  # fmt: skip
def test_lists_of_old_are_read_as_they_were(line: str):
    assert words_of(line) == line.split()


@pytest.mark.parametrize(("line", "names"), [
    ('"my photo.jpg" "my label.png"', ["my photo.jpg", "my label.png"]),
    ("my photo.jpg\tmy label.png", ["my photo.jpg", "my label.png"]),
    (" my photo.jpg \t label.png\t", ["my photo.jpg", "label.png"]),
    ('"my photo.jpg"', ["my photo.jpg"]),
])  # fmt: skip
def test_names_with_spaces_stand_in_quotes_or_between_tabs(line: str, names: list[str]):
    assert words_of(line) == names


def test_line_of_more_names_is_refused_with_what_may_be_meant(tmp_path: Path):
    with pytest.raises(ValueError, match="got 'my photo.jpg b.png'; a name with spaces stands in double quotes"):
        read_splits(config(tmp_path / "spaces", labeled="my photo.jpg b.png"))
    with pytest.raises(ValueError, match="got 'a.png,b.png'; commas separate no names"):
        read_splits(config(tmp_path / "commas", labeled="a.png,b.png"))


@pytest.mark.parametrize(
    ("name", "other"),
    [("4.png", "./4.png"), ("a/4.png", "a//b/../4.png"), ("v.tif", "v.tif#0"), ("v.tif#3", "./v.tif#03")],
)
def test_spellings_of_a_name_are_one_image(name: str, other: str):
    assert same_image(name) == same_image(other)
    assert (frame_of("v.tif#03"), frame_of("4.png")) == (3, None)


def test_names_of_two_images_are_two():
    assert len({same_image(name) for name in ("4.png", "a/4.png", "4.PNG", "v#1.tif", "v.tif#1", "v.tif#10")}) == 6


@pytest.mark.parametrize("spelling", ["./e.png", "x/../e.png", "e.png#0"])
def test_labeled_image_that_is_for_validation_too_is_found_however_it_is_spelled(spelling: str, tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"labeled.txt:1: image .* must not be for validation too; it is, in .*val.txt:1"
    ):
        read_splits(config(tmp_path, labeled=f"{spelling} l\n", val="e.png l\n"))


def test_validation_image_counts_once_however_often_it_is_listed(tmp_path: Path):
    once = config(tmp_path / "once", val="v v\nw w\n")
    twice = config(tmp_path / "twice", val="v v\n./v v\nw w\nv ./v\n")
    said: list[str] = []
    assert read_val(twice, said.append) == read_splits(twice).val == [Sample("v", "v"), Sample("w", "w")]
    assert said == ["the val list repeats images on 2 lines; each counts once"]
    assert read_splits(twice).num_repeats == 2
    assert split_sha256(read_splits(twice)) == split_sha256(read_splits(once))
    with pytest.raises(ValueError, match=r"val.txt:2: image ./v must have one label; v is its label in .*:1, got w"):
        read_splits(config(tmp_path / "other", val="v v\n./v w\n"))


def test_images_of_the_train_list_are_unlabeled_unless_labeled_by_another_spelling(tmp_path: Path):
    run = config(tmp_path, labeled="./a a", train="a a\nb b\n")
    (tmp_path / "splits/2/unlabeled.txt").unlink()
    assert [sample.image for sample in read_splits(run).unlabeled] == ["b"]


def test_image_that_is_held_out_is_trained_on_by_no_spelling(tmp_path: Path):
    run = config(tmp_path, labeled="a a\nb b\n./a a\n./b b\n")
    run.numerics.evaluation.held_out, run.numerics.evaluation.held_out_from = 0.25, "labeled"
    held = read_splits(run)
    assert len(held.val) == 1
    assert len(held.labeled) == 2
    assert not {same_image(sample.image) for sample in held.val} & {same_image(sample.image) for sample in held.labeled}
