import re
from pathlib import Path

import pytest

from rankmatch.config import DatasetConfig, MethodConfig, NumericsConfig, SceneConfig, TrainConfig
from rankmatch.data.catalog import Sample
from rankmatch.data.splits import Splits, read_splits, read_train, split_root, split_sha256
from rankmatch.execution import ExecutionConfig


def write(root: Path, **lists: str) -> TrainConfig:
    (root / "splits" / "2").mkdir(parents=True, exist_ok=True)
    places = {"labeled": "2/labeled.txt", "unlabeled": "2/unlabeled.txt", "train": "train.txt", "val": "val.txt"}
    for name, text in lists.items():
        (root / "splits" / places[name]).write_text(text)
    return config(root)


def config(root: Path, split: str = "2", method: str = "rankmatch", split_root: str = "") -> TrainConfig:
    numerics = NumericsConfig(split=split, dataset=DatasetConfig(name="mine"), method=MethodConfig(name=method))
    return TrainConfig(numerics=numerics, execution=ExecutionConfig(data_root=str(root), split_root=split_root))


def scenes(split: str, **settings: int) -> TrainConfig:
    dataset = DatasetConfig(scenes=SceneConfig(**{"num_train": 10, "num_val": 3} | settings))
    return TrainConfig(numerics=NumericsConfig(split=split, dataset=dataset))


def test_lists_are_read_in_order_and_unlabeled_samples_carry_no_label(tmp_path: Path):
    splits = read_splits(
        write(tmp_path, labeled="b.jpg b.png\na.jpg a.png\n", unlabeled="c.jpg c.png\nd.jpg\n", val="e e")
    )
    assert splits == Splits(
        labeled=[Sample("b.jpg", "b.png"), Sample("a.jpg", "a.png")],
        unlabeled=[Sample("c.jpg", None), Sample("d.jpg", None)],
        val=[Sample("e", "e")],
    )
    assert [sample.truth for sample in splits] == [None, None, "c.png", None, None]
    assert splits.labeled[1].origin == f"{tmp_path}/splits/2/labeled.txt:2"


def test_without_an_unlabeled_list_it_is_train_minus_labeled(tmp_path: Path):
    splits = read_splits(write(tmp_path, labeled="b b\n", train="a a\nb b\n\nc c\n", val="e e"))
    assert [sample.image for sample in splits.unlabeled] == ["a", "c"]


@pytest.mark.parametrize("line", ["a.jpg", "a.jpg a.png 3"])
def test_malformed_line_is_named(tmp_path: Path, line: str):
    with pytest.raises(ValueError, match=r"labeled.txt:2: a line must be `<image> <label>`; got"):
        read_splits(write(tmp_path, labeled=f"b b\n{line}\n", unlabeled="c", val="e e"))


@pytest.mark.parametrize("name", ["/etc/passwd", "../b", "x/../../b", ".."])
def test_path_that_leads_out_of_data_root_is_refused(tmp_path: Path, name: str):
    (tmp_path / "b").touch()
    (tmp_path / "root" / "x").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"labeled.txt:1: paths in lists start from data_root and stay in it; got"):
        read_splits(write(tmp_path / "root", labeled=f"b {name}\n", unlabeled="c", val="e e"))


@pytest.mark.parametrize("place", ["../v.tif", "x/../../v.tif", "{}/v.tif"])
@pytest.mark.parametrize("frames", ["#0", "#0-0", "#0-2"])
def test_frames_of_a_volume_outside_data_root_are_refused(tmp_path: Path, place: str, frames: str):
    (tmp_path / "v.tif").touch()
    (tmp_path / "root" / "x").mkdir(parents=True)
    name = place.format(tmp_path) + frames
    with pytest.raises(ValueError, match=r"labeled.txt:1: paths in lists start from data_root and stay in it; got"):
        read_splits(write(tmp_path / "root", labeled=f"{name} {name}\n", unlabeled="c", val="e e"))


@pytest.mark.parametrize("place", ["v.tif", "x/../v.tif", "{}/v.tif", "link/v.tif"])
def test_frames_of_a_volume_within_data_root_are_taken(tmp_path: Path, place: str):
    root = tmp_path / "root"
    (root / "x").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    for folder in (root, root / "link"):
        (folder / "v.tif").touch()
    name = place.format(root)
    splits = read_splits(write(root, labeled=f"{name}#0-2 {name}#0-2\n", unlabeled="c", val="e e"))
    assert splits.labeled == [Sample(f"{name}#{frame}", f"{name}#{frame}") for frame in range(3)]


def test_absolute_path_within_data_root_is_taken(tmp_path: Path):
    splits = read_splits(write(tmp_path, labeled=f"{tmp_path}/b x/../b.png\n", unlabeled="c", val="e e"))
    assert splits.labeled == [Sample(f"{tmp_path}/b", "x/../b.png")]


def test_more_frames_than_a_volume_has_are_refused_before_they_are_listed(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"labeled.txt:1: 'v.tif#0-99999999999999999999999' must name at most 1,000,000"
    ):
        read_splits(write(tmp_path, labeled=f"v.tif#0-{'9' * 23} l.tif#0-{'9' * 23}\n", unlabeled="c", val="e e"))


def test_list_that_is_no_text_is_named_and_a_byte_order_mark_is_none_of_its_names(tmp_path: Path):
    wrong = write(tmp_path, labeled="b b\n", unlabeled="c", val="e e")
    (tmp_path / "splits/2/labeled.txt").write_bytes(b"\xef\xbb\xbfb b\r\n")
    assert read_splits(wrong).labeled == [Sample("b", "b")]
    (tmp_path / "splits/val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"split list .*val.txt must be text in UTF-8"):
        read_splits(wrong)


def test_unknown_split_names_those_that_are_there(tmp_path: Path):
    write(tmp_path, labeled="b b")
    with pytest.raises(ValueError, match=r"split must be one of those in .*splits \(2\); got '1_16'"):
        read_splits(config(tmp_path, split="1_16"))


@pytest.mark.parametrize("empty", ["labeled", "unlabeled", "val"])
def test_empty_list_is_refused(tmp_path: Path, empty: str):
    lists = {"labeled": "a a", "unlabeled": "b", "val": "c c"} | {empty: "\n"}
    with pytest.raises(ValueError, match=f"the {empty} list of split '2' must hold a sample; it is empty"):
        read_splits(write(tmp_path, **lists))


def test_supervised_run_needs_no_unlabeled_list(tmp_path: Path):
    write(tmp_path, labeled="a a", val="c c")
    assert read_splits(config(tmp_path, method="supervised")).unlabeled == []
    with pytest.raises(ValueError, match="method rankmatch needs .*unlabeled.txt or .*train.txt; neither exists"):
        read_splits(config(tmp_path))


def test_sample_both_labeled_and_for_validation_is_refused(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r"labeled.txt:1: image a must not be for validation too; it is, in .*val.txt:2"
    ):
        read_splits(write(tmp_path, labeled="a a", unlabeled="b", val="c c\na a"))


def test_missing_validation_list_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"split list .*val.txt is not there"):
        read_splits(write(tmp_path, labeled="a a", unlabeled="b"))


def test_split_root_is_the_given_one_else_inside_else_beside_the_data(tmp_path: Path):
    data, beside, given = tmp_path / "data", tmp_path / "splits" / "mine", tmp_path / "given"
    data.mkdir()
    with pytest.raises(ValueError, match="split_root must be the folder of the split lists; got ''"):
        split_root(config(data))
    for folder in (beside, data / "splits"):
        folder.mkdir(parents=True)
        assert split_root(config(data)) == folder
    given.mkdir()
    assert split_root(config(data, split_root=str(given))) == given


def test_scene_splits_nest_and_share_nothing_with_their_rest():
    small, large = read_splits(scenes("2")), read_splits(scenes("4"))
    assert len(small.labeled) == 2
    assert large.labeled[:2] == small.labeled
    images = [sample.image for sample in large.labeled + large.unlabeled]
    assert sorted(images) == [f"scene:train:{index}" for index in range(10)]
    assert [sample.label for sample in large.val] == ["scene:val:0", "scene:val:1", "scene:val:2"]
    assert all(sample.label is None and sample.truth == sample.image for sample in large.unlabeled)


def test_scene_seed_changes_which_scenes_are_labeled():
    assert read_splits(scenes("4")).labeled != read_splits(scenes("4", seed=1)).labeled


@pytest.mark.parametrize("split", ["0", "11", "1_2", "04"])
def test_scene_split_that_is_no_number_of_scenes_is_refused(split: str):
    with pytest.raises(
        ValueError, match=f"split must be how many of the drawn scenes are labeled, 1 to 10; got '{split}'"
    ):
        read_splits(scenes(split))


def test_hash_knows_the_lists_but_not_where_they_lie(tmp_path: Path):
    lists = {"labeled": "a a", "unlabeled": "b b", "val": "c c"}
    first, second = (read_splits(write(tmp_path / name, **lists)) for name in "xy")
    assert split_sha256(first) == split_sha256(second)
    moved = read_splits(write(tmp_path / "x", **lists | {"labeled": "b b", "unlabeled": "a a"}))
    assert split_sha256(moved) != split_sha256(first)


def test_lists_of_a_data_set_may_lie_beside_its_folder_under_its_name(tmp_path: Path):
    """As those of CamVid do: 184 images, 11 of them labeled, and 51 for validation."""
    lists = tmp_path / "splits" / "camvid"
    (lists / "11").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    lines = [f"train/{number}.jpg trainannot/{number}.png\n" for number in range(184)]
    (lists / "11" / "labeled.txt").write_text("".join(lines[::17]))
    (lists / "train.txt").write_text("".join(lines))
    (lists / "val.txt").write_text("".join(f"val/{number}.jpg valannot/{number}.png\n" for number in range(51)))
    dataset = DatasetConfig(name="camvid", num_classes=11, label_map={11: 255})
    execution = ExecutionConfig(data_root=str(tmp_path / "images"))
    splits = read_splits(TrainConfig(numerics=NumericsConfig(split="11", dataset=dataset), execution=execution))
    assert (len(splits.labeled), len(splits.unlabeled), len(splits.val)) == (11, 173, 51)


def patterned(config: TrainConfig) -> TrainConfig:
    config.execution.image_pattern, config.execution.label_pattern = "images/{}.jpg", "labels/{}.png"
    return config


def test_line_with_a_name_alone_follows_the_patterns(tmp_path: Path):
    splits = read_splits(patterned(write(tmp_path, labeled="a\nx.jpg x.png\n", unlabeled="city/b\n", val="c\n")))
    assert splits.labeled == [Sample("images/a.jpg", "labels/a.png"), Sample("x.jpg", "x.png")]
    assert [(sample.image, sample.label, sample.truth) for sample in splits.unlabeled] == [
        ("images/city/b.jpg", None, "labels/city/b.png")
    ]


@pytest.mark.parametrize(("image", "label", "message"), [
    ("images/*.jpg", "", r"image_pattern must hold one {}, the place of the name; got 'images/\*.jpg'"),
    ("{}.jpg", "{}/{}.png", "label_pattern must hold one {}"),
    ("", "{}.png", "image_pattern must be given with label_pattern"),
])  # fmt: skip
def test_pattern_without_a_place_is_refused(image: str, label: str, message: str):
    with pytest.raises(ValueError, match=message):
        ExecutionConfig(image_pattern=image, label_pattern=label)


def test_range_of_frames_is_a_sample_each(tmp_path: Path):
    splits = read_splits(
        write(tmp_path, labeled="v.tif#3-4 t.tif#0-1\n", unlabeled="v.tif#0-2\n", val="w.tif#7 u.tif#7\n")
    )
    assert splits.labeled == [Sample("v.tif#3", "t.tif#0"), Sample("v.tif#4", "t.tif#1")]
    assert [sample.image for sample in splits.unlabeled] == ["v.tif#0", "v.tif#1", "v.tif#2"]
    assert splits.val == [Sample("w.tif#7", "u.tif#7")]


@pytest.mark.parametrize("line", ["v.tif#0-2 t.tif#0-1", "v.tif#5-4 t.tif#5-4", "v.tif#0-2 t.tif"])
def test_ranges_of_frames_that_do_not_match_are_refused(line: str, tmp_path: Path):
    with pytest.raises(ValueError, match="labeled.txt:1: image and label must name as many frames"):
        read_splits(write(tmp_path, labeled=line, val="c d"))


def test_train_images_are_listed_by_the_pattern_less_those_of_val(tmp_path: Path):
    config = patterned(write(tmp_path, val="b\n"))
    for name in ("images/a.jpg", "images/b.jpg", "images/city/c.jpg", "images/d.png", "labels/a.png", "labels/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert read_train(config) == [Sample("images/a.jpg", "labels/a.png"), Sample("images/city/c.jpg", None)]
    config.execution.image_pattern, config.execution.label_pattern = "labels/{}.png", ""
    assert [sample.image for sample in read_train(config)] == ["labels/a.png"]


def test_pattern_that_matches_nothing_is_named_with_what_is_there(tmp_path: Path):
    config = patterned(write(tmp_path, val="b\n"))
    (tmp_path / "images").mkdir(exist_ok=True)
    for name in ("IMG 0.JPG", "IMG 1.JPG", "notes.txt"):
        (tmp_path / "images" / name).touch()
    there = rf"images/{{}}.jpg matches none of the files below {tmp_path}/images (2 with .JPG, 1 with .txt)"
    with pytest.raises(ValueError, match=f"or image_pattern match a file; {re.escape(there)}$"):
        read_train(config)


def test_images_and_labels_may_share_a_folder(tmp_path: Path):
    config = write(tmp_path, val="x y\n")
    config.execution.image_pattern, config.execution.label_pattern = "{}.png", "{}_label.png"
    for name in ("a.png", "a_label.png", "b.png"):
        (tmp_path / name).touch()
    assert read_train(config) == [Sample("a.png", "a_label.png"), Sample("b.png", None)]
