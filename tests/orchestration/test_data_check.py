"""What `rankmatch data check` and a launch say of lists and folders that are not what they seem."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.runs.run_folder import folders


def command(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def own(root, **lists):
    """A data set of one's own with lists; each word of them is a number from 0 to 9 or has its own file."""
    (root / "splits/2").mkdir(parents=True)
    for number in range(10):
        Image.new("RGB", (40, 40), (20 * number,) * 3).save(root / f"{number}.png")
    Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40) % 3).save(root / "label.png")
    places = {"labeled": "2/labeled.txt", "unlabeled": "2/unlabeled.txt", "val": "val.txt"}
    for name, lines in ({"labeled": ["0.png"], "unlabeled": ["1.png"], "val": ["9.png"]} | lists).items():
        (root / "splits" / places[name]).write_text("".join(f"{line} label.png\n" for line in lines))
    (root / "mine.yaml").write_text("numerics: {dataset: {name: mine, num_classes: 3}}\nexecution: {data_root: .}\n")
    return root / "mine.yaml"


def words(text):
    return " ".join(text.split())


def test_data_check_counts_what_the_lists_share(tmp_path):
    file = own(
        tmp_path,
        labeled=["0.png", "1.png", "./1.png"],
        unlabeled=["2.png", "2.png", "3.png", "./1.png", "9.png", "linked.png"],
        val=["8.png", "9.png", "./8.png"],
    )
    (tmp_path / "linked.png").symlink_to("8.png")
    said = command("data", "check", file, "trainer.unlabeled_batch_size=2", "trainer.labeled_batch_size=2")
    assert said.exit_code == 0, said.exception
    where, ends = f"{tmp_path}/splits/2/unlabeled.txt", "each is trained on as often as it is listed"
    assert [line for line in said.stdout.splitlines() if "split 2: " in line] == [
        "split 2: the val list repeats images on 1 line; each counts once",
        f"split 2: the unlabeled list holds 2 of the 2 validation images, first 9.png ({where}:5); results are marked "
        "as transductive",
        f"split 2: the unlabeled list holds 1 of the 2 labeled images, first ./1.png ({where}:4)",
        f"split 2: the labeled list repeats images on 1 line, first 1.png; {ends}",
        f"split 2: the unlabeled list repeats images on 1 line, first 2.png; {ends}",
    ]


@pytest.mark.parametrize(("labeled", "val", "fault"), [
    (["other.png"], ["9.png"],
     "labeled.txt:1: image other.png must not be for validation too; it is the file of 9.png, in {}/splits/val.txt:1"),
    (["0.png"], ["9.png", "other.png"],
     "val.txt:2: image other.png must not count twice; it is the file of 9.png, in {}/splits/val.txt:1"),
    (["Third.png"], ["third.png"],
     "labeled.txt:1: image Third.png must not be for validation too; it is the file of third.png, in "
     "{}/splits/val.txt:1"),
    (["{}/9.png"], ["9.png"], "must not be for validation too; it is the file of 9.png, in {}/splits/val.txt:1"),
    (["folder/9.png"], ["9.png"],
     "image folder/9.png must not be for validation too; it is the file of 9.png, in {}/splits/val.txt:1"),
])  # fmt: skip
def test_one_file_under_two_names_is_one_image(labeled, val, fault, tmp_path):
    file = own(tmp_path, labeled=[name.format(tmp_path) for name in labeled], val=val)
    (tmp_path / "other.png").symlink_to("9.png")
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "third.png").write_bytes((tmp_path / "8.png").read_bytes())
    (tmp_path / "Third.png").hardlink_to(tmp_path / "third.png")  # as a file system without case shows it
    assert fault.format(tmp_path) in str(command("data", "check", file).exception)


def test_lists_that_a_notebook_left_hidden_are_no_split(tmp_path):
    file = own(tmp_path)
    (tmp_path / "splits/.ipynb_checkpoints").mkdir()
    (tmp_path / "splits/.ipynb_checkpoints/labeled.txt").write_text("gone.png gone.png\n")
    assert "3 images of split 2 are good" in words(command("data", "check", file).stdout)


def test_conversion_follows_links_and_passes_over_what_a_mac_left(tmp_path):
    (tmp_path / "disk/ulm").mkdir(parents=True)
    (tmp_path / "gtFine").mkdir()
    Image.new("L", (3, 2), 7).save(tmp_path / "disk/ulm/a_labelIds.png")
    (tmp_path / "disk/ulm/._a_labelIds.png").write_bytes(b"Mac")
    (tmp_path / "gtFine/val").symlink_to(tmp_path / "disk")
    done = command("data", "convert", "cityscapes", tmp_path / "gtFine")
    assert "1 *_labelTrainIds.png written" in words(done.stdout), done.exception
    assert "skipped: 1 hidden" in done.stdout


@pytest.mark.parametrize(("line", "message"), [
    ("/0.png label.png", "image /0.png is missing: paths are relative to data_root, without a leading /; 0.png is "
     "there"),
    ("sub\\s.png label.png", "image sub\\s.png is missing: / separates folders, not \\; sub/s.png is there"),
    ("0.PNG label.png", "image 0.PNG is missing; there is '0.png'"),
    ("0.jpg label.png", "image 0.jpg is missing; there is '0.png'"),
    ("cafe\u0301.png label.png", "image cafe\u0301.png is missing; there is 'caf\u00e9.png'"),
    ("data/0.png label.png", "image data/0.png is missing; it is there below {root}, which data_root should be then"),
    ("s.png label.png", "image s.png is missing; it is there below {root}/data/sub, which data_root should be then"),
    ("my photo.png", "image my is missing; there is 'my photo.png', which needs double quotes in a list"),
    ("0.png gone.png", "label gone.png is missing"),
    ("0.png a_labelIds.png", "label a_labelIds.png holds 7, 33, which is no class; allowed are 0..2 and 255; lists "
     "must name *_labelTrainIds.png, which `rankmatch data convert cityscapes` writes"),
    ("0.png a_color.png", "got mode RGBA; Cityscapes' labels are the files *_labelTrainIds.png"),
    ("0.png mask.png", "label mask.png holds 200, which is no class; allowed are 0..2 and 255; for masks of 0 and 200, "
     "the data set's file says `label_map: {{200: 1}}`"),
    ("0.png from1.png", "label from1.png holds 3, which is no class; allowed are 0..2 and 255; where classes are "
     "counted from 1, the data set's file says `label_map: {{1: 0, 2: 1, ...}}`"),
])  # fmt: skip
def test_message_names_the_likely_cause_and_what_mends_it(line, message, tmp_path):
    file = own(tmp_path / "data")
    root = tmp_path / "data"
    (root / "sub").mkdir()
    Image.new("RGB", (40, 40)).save(root / "sub/s.png")
    for name in ("my photo", "caf\u00e9"):
        Image.new("RGB", (40, 40)).save(root / f"{name}.png")
    Image.new("RGBA", (40, 40)).save(root / "a_color.png")
    for name, values in (("a_labelIds", (7, 33)), ("mask", (0, 200)), ("from1", (1, 2, 3))):
        Image.fromarray(np.resize(np.array(values, np.uint8), (40, 40))).save(root / f"{name}.png")
    (root / "splits/2/labeled.txt").write_text(f"{line}\n", encoding="utf-8")
    fault = str(command("data", "check", file).exception).splitlines()[1]
    assert fault == f"{root}/splits/2/labeled.txt:1: {message.format(root=tmp_path)}" or message in fault


def test_masks_of_0_and_255_are_refused_until_the_file_says_what_255_means(tmp_path):
    file = own(tmp_path)
    values = np.zeros((40, 40), np.uint8)
    values[:20] = 255
    Image.fromarray(values).save(tmp_path / "label.png")
    assert (
        "the labels hold 0 and 255 alone, and 255 is ignored; for masks of 0 and 255, the data set's file says "
        in str(command("data", "check", file).exception)
    )
    meant = tmp_path / "meant.yaml"
    meant.write_text(file.read_text().replace("num_classes: 3", "num_classes: 2, label_map: {255: 1}"))
    assert "2 of 2 classes occur in the val labels" in words(command("data", "check", meant).stdout)


def launch(fresh, root, *overrides, **options):
    return fresh("seed=0", "split=2", "dataset.name=mine", "dataset.num_classes=3", f"data_root={root}", *overrides,
                 **options)  # fmt: skip


def test_launch_says_each_time_what_the_lists_share_and_results_know_what_is_transductive(fresh, tmp_path):
    own(tmp_path / "data", labeled=["0.png", "1.png"], unlabeled=["4.png", "9.png"])
    note = "data: mine, split 2: the unlabeled list holds 1 of the 1 validation images, first 9.png"
    assert launch(fresh, tmp_path / "data") == 0
    assert note in fresh.printed
    found = {folder.path.name[13:]: folder.result()["provenance"] for folder in folders(fresh.runs / "small").values()}
    assert {name: known.get("transductive") for name, known in found.items()} == {
        "supervised-2-s0": None,  # it looks at no unlabeled image
        "rankmatch-2-s0": 1,
    }
    assert launch(fresh, tmp_path / "data") == 0  # nothing is opened again
    assert note in fresh.printed


def test_plan_says_what_the_lists_share_and_what_is_wrong_with_them(fresh, tmp_path):
    own(tmp_path / "data", labeled=["0.png", "1.png"], unlabeled=["4.png", "./9.png"])
    assert launch(fresh, tmp_path / "data", dry_run=True) == 0
    assert "data: mine, split 2: the unlabeled list holds 1 of the 1 validation images, first ./9.png" in fresh.printed
    (tmp_path / "data/splits/val.txt").write_text("./0.png label.png\n")
    assert launch(fresh, tmp_path / "data", dry_run=True) == 0
    assert "labeled.txt:1: image 0.png must not be for validation too" in fresh.printed


def test_cells_trained_on_an_image_that_lay_on_its_side_are_not_taken_for_those_of_today(fresh, tmp_path, monkeypatch):
    """A version that did not follow the orientation trained a cell; this one says so and stops."""
    from rankmatch.data import check, pixels

    own(tmp_path / "data", labeled=["0.png", "1.png"], unlabeled=["2.png", "3.png"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 40)).save(tmp_path / "data/0.png", exif=exif)
    with monkeypatch.context() as before:
        before.setattr(pixels, "_UPRIGHT", {})
        before.setattr(check, "READING", 1)
        assert launch(fresh, tmp_path / "data", "method=supervised") == 0
    with pytest.raises(ValueError, match="the data files differ from those it was trained with"):
        launch(fresh, tmp_path / "data", "method=supervised")
