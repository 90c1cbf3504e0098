import csv
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from orchestration.commands import datasets
from orchestration.commands.main import app
from orchestration.grids.cells import experiments_folder
from rankmatch.data.catalog import Sample

LISTS = {
    "pascal/92/labeled.txt": b"a.jpg a.png\n",
    "pascal/92/unlabeled.txt": b"b.jpg b.png\n",
    "pascal/val.txt": b"c d\n",
}


def command(*words):
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """Let the published lists be the small ones above."""
    (tmp_path / "experiments" / "paper").mkdir(parents=True)
    rows = [f"{path},1,{hashlib.sha256(text).hexdigest()},{len(text)}\n" for path, text in LISTS.items()]
    (tmp_path / "experiments/paper/splits_manifest.csv").write_text(
        "path,num_samples,sha256,num_bytes\n" + "".join(rows)
    )
    monkeypatch.setattr(datasets, "experiments_folder", lambda: tmp_path / "experiments")


class Server(ThreadingHTTPServer):
    """Serves the lists as the public repository does, and breaks off where it is told to."""

    def __init__(self):
        self.asked, self.broken, self.wrong = [], set(), set()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.partition("/splits/")[2]
        self.server.asked.append(self.path)
        content = b"something else" if name in self.server.wrong else LISTS[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:3] if name in self.server.broken else content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def url(server):
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.usefixtures("manifest")
def test_lists_are_downloaded_from_the_fixed_commit_and_kept_the_next_time(server, tmp_path):
    words = ["splits", "download", "pascal", "--to", tmp_path / "to", "--base-url", url(server)]
    assert "3 lists written, 0 kept" in command(*words).stdout
    assert {path: (tmp_path / "to" / path.partition("/")[2]).read_bytes() for path in LISTS} == LISTS
    assert server.asked[0] == "/mai556/RankMatch/abb13e1/splits/pascal/92/labeled.txt"
    assert "0 lists written, 3 kept" in command(*words).stdout
    assert len(server.asked) == 3


@pytest.mark.usefixtures("manifest")
def test_download_that_is_cut_off_leaves_no_part_and_goes_on(server, tmp_path):
    words = ["splits", "download", "pascal", "--to", tmp_path / "to", "--base-url", url(server)]
    server.broken = {"pascal/92/unlabeled.txt"}
    done = command(*words)
    assert "2 lists written" in done.stdout and "pascal/92/unlabeled.txt cannot be obtained" in str(done.exception)
    assert sorted(path.name for path in (tmp_path / "to").rglob("*") if path.is_file()) == ["labeled.txt", "val.txt"]
    server.broken, server.asked = set(), []
    assert "1 lists written, 2 kept" in command(*words).stdout
    assert len(server.asked) == 1


@pytest.mark.usefixtures("manifest")
def test_wrong_content_is_not_written_and_another_list_is_not_replaced(server, tmp_path):
    server.wrong = {"pascal/val.txt"}
    (tmp_path / "to" / "92").mkdir(parents=True)
    (tmp_path / "to" / "92" / "labeled.txt").write_text("my own\n")
    done = command("splits", "download", "pascal", "--to", tmp_path / "to", "--base-url", url(server))
    faults = str(done.exception).splitlines()
    assert len(faults) == 2 and "labeled.txt is there with SHA-256" in faults[0]
    assert faults[1].startswith("pascal/val.txt came with SHA-256") and not (tmp_path / "to" / "val.txt").exists()
    assert (tmp_path / "to" / "92" / "labeled.txt").read_text() == "my own\n"


@pytest.mark.usefixtures("manifest")
def test_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", url(server))
    monkeypatch.setenv("no_proxy", "")
    done = command("splits", "download", "pascal", "--to", tmp_path / "to", "--base-url", "http://lists.invalid")
    assert "3 lists written" in done.stdout
    assert server.asked[0] == "http://lists.invalid/mai556/RankMatch/abb13e1/splits/pascal/92/labeled.txt"


@pytest.mark.usefixtures("manifest")
@pytest.mark.parametrize("part", ["", "splits"])
def test_lists_are_taken_from_a_checkout(part, tmp_path):
    for path, text in LISTS.items():
        (tmp_path / "checkout/splits" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout/splits" / path).write_bytes(text)
    done = command("splits", "download", "pascal", "--to", tmp_path / "to", "--from", tmp_path / "checkout" / part)
    assert "3 lists written" in done.stdout
    wrong = command("splits", "download", "pascal", "--to", tmp_path / "to", "--from", tmp_path)
    assert "--from must be a checkout" in str(wrong.exception)


def test_unknown_lists_are_refused(tmp_path):
    done = command("splits", "download", "voc", "--to", tmp_path)
    assert str(done.exception) == "lists are published for cityscapes, coco, pascal; got 'voc'"


def test_published_lists_of_a_data_set_add_up():
    with (experiments_folder() / "paper" / "splits_manifest.csv").open(newline="") as file:
        num = {row["path"]: int(row["num_samples"]) for row in csv.DictReader(file)}
    for dataset, total in (("pascal", 10582), ("cityscapes", 2975)):
        for path in num:
            if path.startswith(dataset) and path.endswith("/labeled.txt"):
                assert num[path] + num[path.replace("labeled", "unlabeled")] == total, path


@pytest.fixture
def camvid(tmp_path, tiny_root):
    """A folder data set with a train list."""
    lines = (tiny_root / "splits/2/labeled.txt").read_text() + (tiny_root / "splits/2/unlabeled.txt").read_text()
    for name in tiny_root.glob("*.png"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name.name).write_bytes(name.read_bytes())
    (tmp_path / "data/splits").mkdir()
    (tmp_path / "data/splits/train.txt").write_text(lines)
    (tmp_path / "data/splits/val.txt").write_text((tiny_root / "splits/val.txt").read_text())
    return tmp_path / "data"


def test_drawn_lists_are_nested_and_can_be_trained_on(camvid):
    words = ["splits", "draw", "camvid", "--count", 3, "--count", 5, "--seed", 0, "--balanced", f"data_root={camvid}"]
    done = command(*words)
    assert done.exit_code == 0 and "3 labeled images show 3 of 11 classes" in done.stdout
    lists = {
        (count, kind): set((camvid / f"splits/{count}/{kind}.txt").read_text().splitlines())
        for count in (3, 5)
        for kind in ("labeled", "unlabeled")
    }
    assert len(lists[3, "labeled"]) == 3 and lists[3, "labeled"] < lists[5, "labeled"]
    assert lists[5, "labeled"] | lists[5, "unlabeled"] == set((camvid / "splits/train.txt").read_text().splitlines())
    assert command(*words).exit_code == 0  # the same lists again
    assert "15 images of split 3, 5 are good; 3 of 11 classes occur" in " ".join(
        command("data", "check", "camvid", f"data_root={camvid}").stdout.split()
    )


OWN = """
numerics:
  dataset: {name: mine, num_classes: 3, colours: [[0, 0, 0], [9, 0, 0], [0, 9, 0], [9, 9, 9]], label_map: {3: 255}}
execution:
  data_root: .
  image_pattern: pictures/{}.png
  label_pattern: colours/{}.png
"""


def test_folder_of_ones_own_needs_its_files_and_a_yaml_file_alone(tmp_path):
    colours = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [9, 9, 9]], np.uint8)
    for folder in ("pictures", "colours"):
        (tmp_path / folder).mkdir()
    for number in range(9):
        Image.new("L", (40, 40), 20 * number).save(tmp_path / f"pictures/{number}.png")
        if number < 7:
            Image.fromarray(colours[np.arange(1600).reshape(40, 40) % 4]).save(tmp_path / f"colours/{number}.png")
    (tmp_path / "mine.yaml").write_text(OWN)
    words = ["splits", "draw", tmp_path / "mine.yaml", "--count", 2, "--val", 3]
    assert command(*words).exit_code == 0
    lists = [(tmp_path / "splits" / name).read_text().split("\n")[:-1] for name in ("2/labeled.txt", "val.txt")]
    assert [len(lines) for lines in lists] == [2, 3] and not {*lists[0]} & {*lists[1]}
    unlabeled = (tmp_path / "splits/2/unlabeled.txt").read_text().split("\n")[:-1]
    assert len(unlabeled) == 4 and {"pictures/7.png", "pictures/8.png"} < {*unlabeled}
    said = command("data", "check", tmp_path / "mine.yaml").stdout.split()
    assert " ".join(said).endswith("9 images of split 2 are good; 3 of 3 classes occur in the val labels")
    assert "1,200" in said  # of 3 * 1600 pixels a quarter each class, and a quarter ignored
    assert "--val must be left out" in str(command(*words).exception)


def test_validation_list_that_leaves_nothing_to_label_is_refused_by_its_own_option(own_images):
    done = command("splits", "draw", own_images / "mine.yaml", "--count", 2, "--val", 12)
    assert str(done.exception) == "--val must leave two of the 12 images, one of them to label; it does not"


@pytest.mark.parametrize("balanced", [[], ["--balanced"]])
@pytest.mark.parametrize("has_train_list", [False, True])
def test_lists_of_two_commands_are_nested_as_those_of_one(has_train_list, balanced, own_images):
    (own_images / "splits").mkdir()
    if has_train_list:
        lines = [f"pictures/{number}.png colours/{number}.png\n" for number in range(12)]
        (own_images / "splits/train.txt").write_text("".join(lines))
    words = ["splits", "draw", own_images / "mine.yaml", *balanced]
    for drawn in (["--count", 4, "--val", 4], ["--count", 2], ["--count", 6]):
        done = command(*words, *drawn)
        assert done.exit_code == 0 and "does not hold" not in done.stdout, done.exception
    two, four, six, val = (
        set((own_images / "splits" / name).read_text().splitlines())
        for name in ("2/labeled.txt", "4/labeled.txt", "6/labeled.txt", "val.txt")
    )
    assert two < four < six and not six & val and len(six) == 6
    lines = [f"pictures/{number}.png colours/{number}.png" for number in range(12)]
    (own_images / "splits/3").mkdir()
    (own_images / "splits/3/labeled.txt").write_text("\n".join(sorted({*lines} - six - val)))
    said = " ".join(command(*words, "--count", 1).stdout.split())
    assert "split 3 does not hold split 1, 1 of whose 1 images are not in it" in said


def test_stack_that_is_drawn_from_in_two_commands_has_nested_lists(stack):
    words = ["splits", "draw", stack / "stack.yaml"]
    for drawn in (["--count", 8, "--val", 6, "--contiguous"], ["--count", 3, "--gap", 1], ["--count", 5, "--gap", 1]):
        done = command(*words, *drawn)
        assert done.exit_code == 0 and "does not hold" not in done.stdout, done.exception
    three, five, eight = (slices(stack / f"splits/{count}/labeled.txt") for count in (3, 5, 8))
    assert three < five < eight


@pytest.mark.parametrize("words", [("data", "check"), ("data", "pack"), ("splits", "draw")])
def test_help_says_that_a_data_set_can_be_a_file(words):
    assert "A data set of experiments/conf/dataset, or a file." in " ".join(command(*words, "--help").stdout.split())


def test_help_says_of_whose_steps_crops_can_be_drawn():
    said = " ".join(command("data", "show", "--help").stdout.split())
    assert "A data set, its file, or the run folder of a cell." in said


def test_label_that_was_looked_for_is_named(own_images):
    text = (own_images / "mine.yaml").read_text().replace("colours/{}", "labels/{}_l")
    (own_images / "mine.yaml").write_text(text)
    done = command("splits", "draw", own_images / "mine.yaml", "--count", 2)
    place = own_images / "labels" / "0_l.png"
    assert str(done.exception).endswith(f"none of the 12 images has one; of pictures/0.png there is no {place}")


@pytest.fixture
def own_images(tmp_path):
    colours = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [9, 9, 9]], np.uint8)
    for folder in ("pictures", "colours"):
        (tmp_path / folder).mkdir()
    for number in range(12):
        Image.new("L", (40, 40), 20 * number).save(tmp_path / f"pictures/{number}.png")
        Image.fromarray(colours[np.arange(1600).reshape(40, 40) % (1 + number % 3)]).save(
            tmp_path / f"colours/{number}.png"
        )
    (tmp_path / "mine.yaml").write_text(OWN)
    return tmp_path


def test_looking_at_data_asks_nothing_of_a_training(tiny_root, tmp_path):
    small = "numerics: {split: 2, dataset: {name: tiny, num_classes: 3}, augment: {crop_size: 33}}\n"
    small += f"execution: {{data_root: {tiny_root}}}\n"
    (tmp_path / "tiny.yaml").write_text(small)
    done = command("data", "check", tmp_path / "tiny.yaml")  # 9 pixels of features, fewer than there are agents
    assert "15 images of split 2 are good" in " ".join(done.stdout.split()), done.exception


def test_conversion_is_of_cityscapes_alone(tmp_path):
    Image.new("L", (3, 2), 7).save(tmp_path / "a_labelIds.png")
    assert "1 *_labelTrainIds.png written" in " ".join(
        command("data", "convert", "cityscapes", tmp_path).stdout.split()
    )
    assert "must be one of cityscapes; got 'coco'" in str(command("data", "convert", "coco", tmp_path).exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--count", 12], "--count must be 1 to 11"), (["--count", 3, "--seed", 1], "exists with another list; nothing")],
)
def test_lists_that_cannot_be_drawn_are_refused_before_anything_is_written(words, message, camvid):
    command("splits", "draw", "camvid", "--count", 3, f"data_root={camvid}")
    before = (camvid / "splits/3/labeled.txt").read_text()
    assert message in str(command("splits", "draw", "camvid", *words, f"data_root={camvid}").exception)
    assert (camvid / "splits/3/labeled.txt").read_text() == before


def test_count_of_more_images_than_have_a_label_is_refused_for_this_reason(own_images):
    for number in range(4, 12):
        (own_images / f"colours/{number}.png").unlink()
    draw = ("splits", "draw", own_images / "mine.yaml", "--count", 20)
    for words, said in (
        ((), "--count must be 1 to 4, as 4 of the 12 images to draw from have a label; got 20"),
        (("--val", 3), "1 to 1, as 4 of the 12 images to draw from have a label, and --val takes 3 of these; got 20"),
    ):
        assert str(command(*draw, *words).exception).endswith(said)


def test_lists_of_drawn_scenes_are_not_drawn():
    assert "drawn by the split's name" in str(command("splits", "draw", "synthetic", "--count", 3).exception)


def test_data_check_lists_all_faults_of_all_splits_once(camvid):
    command("splits", "draw", "camvid", "--count", 3, "--count", 5, f"data_root={camvid}")
    whole = (camvid / "01.png").read_bytes()
    (camvid / "01.png").write_bytes(whole[: len(whole) // 2])
    (camvid / "12_label.png").unlink()
    done = command("data", "check", "camvid", f"data_root={camvid}")
    faults = str(done.exception).splitlines()
    assert faults[0] == "2 faults in 15 samples:" and len(faults) == 3
    assert "image 01.png cannot be decoded" in faults[1] and "label 12_label.png is missing" in faults[2]


def test_data_pack_writes_a_store_of_all_splits_that_a_run_reads(camvid):
    command("splits", "draw", "camvid", "--count", 3, "--count", 5, f"data_root={camvid}")
    words = ["data", "pack", "camvid", f"data_root={camvid}"]
    store = camvid / "packed-decoded"
    assert f"30 packed, 0 kept, 0.00 GB; data_store={store}" in command(*words).stdout
    assert f"0 packed, 30 kept, 0.00 GB; data_store={store}" in command(*words).stdout
    assert (
        f"30 packed, 0 kept, 0.00 GB; data_store={camvid / 'other'}"
        in command(*words, "--encoded", "--to", camvid / "other").stdout
    )
    checked = command("data", "check", "camvid", f"data_root={camvid}", f"data_store={store}")
    assert "15 images of split 3, 5 are good" in " ".join(checked.stdout.split())
    (camvid / "01.png").write_bytes(b"")
    done = command(*words)
    assert "0 packed, 29 kept" in done.stdout
    assert str(done.exception).splitlines()[0] == "1 could not be packed:"
    assert "image 01.png cannot be decoded" in str(done.exception)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "folder", "images"),
    [("camvid", "camvid_mini", 235), ("lucchi", "lucchi_mini", 84), ("coco", "coco_mini", 263)],
)
def test_small_real_sets_are_good(name, folder, images, shared):
    done = command("data", "check", name, f"data_root={shared / 'data' / folder}")
    assert f"{images} images of split" in " ".join(done.stdout.split()), done.exception


def test_names_with_spaces_are_drawn_and_read_again(tmp_path):
    for folder in ("pictures", "colours"):
        (tmp_path / folder).mkdir()
    names = ["my photo 1", "photo 2", 'a "b"', "plain", "tab\there", "\u202fnarrow space"]
    for name in names:
        Image.new("RGB", (40, 40)).save(tmp_path / f"pictures/{name}.png")
        Image.new("RGB", (40, 40)).save(tmp_path / f"colours/{name}.png")
    (tmp_path / "mine.yaml").write_text(OWN)
    done = command("splits", "draw", tmp_path / "mine.yaml", "--count", 2, "--val", 2)
    assert done.exit_code == 0, done.exception
    lists = "".join((tmp_path / f"splits/{name}.txt").read_text() for name in ("2/labeled", "2/unlabeled", "val"))
    assert "pictures/plain.png colours/plain.png\n" in lists
    assert '"pictures/my photo 1.png" "colours/my photo 1.png"\n' in lists
    assert '"pictures/a ""b"".png" "colours/a ""b"".png"\n' in lists
    assert "6 images of split 2 are good" in " ".join(command("data", "check", tmp_path / "mine.yaml").stdout.split())


def test_hidden_files_are_not_drawn_and_links_to_folders_are_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data/colours").mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (40, 40)).save(tmp_path / f"disk/{number}.png")
        Image.new("RGB", (40, 40)).save(tmp_path / f"data/colours/{number}.png")
        (tmp_path / f"disk/._{number}.png").write_bytes(b"Mac")
        (tmp_path / f"data/colours/._{number}.png").write_bytes(b"Mac")
    (tmp_path / "data/pictures").symlink_to(tmp_path / "disk")
    (tmp_path / "data/mine.yaml").write_text(OWN)
    done = command("splits", "draw", tmp_path / "data/mine.yaml", "--count", 1, "--val", 1)
    assert done.exit_code == 0, done.exception
    passed_over = f"skipped: 4 hidden (first {tmp_path}/data/pictures/._0.png)"
    assert passed_over in done.stdout
    lists = "".join((tmp_path / f"data/splits/{name}.txt").read_text() for name in ("1/labeled", "1/unlabeled", "val"))
    assert sorted(lists.split("\n")[:-1]) == [f"pictures/{number}.png colours/{number}.png" for number in range(4)]
    Image.new("RGB", (40, 40)).save(tmp_path / "disk/new.png")
    checked = command("data", "check", tmp_path / "data/mine.yaml").stdout
    assert passed_over in checked
    assert "in no list of these splits, but matching image_pattern: 1, first pictures/new.png" in checked


def test_doubled_lines_of_the_train_list_are_drawn_from_once(camvid):
    train = camvid / "splits/train.txt"
    lines = train.read_text().splitlines()
    train.write_text("".join(f"{line}\n" for line in [*lines, f"./{lines[0]}", lines[1]]))
    done = command("splits", "draw", "camvid", "--count", 3, f"data_root={camvid}")
    assert f"{train}: 2 lines repeat an image; each image is drawn from once" in done.stdout
    drawn = "".join((camvid / f"splits/3/{kind}.txt").read_text() for kind in ("labeled", "unlabeled"))
    assert sorted(drawn.splitlines()) == sorted(lines)


STACK = """
numerics:
  dataset: {name: stack, num_classes: 2, label_map: {255: 1}}
execution: {data_root: ., image_pattern: "slices/{}.png", label_pattern: "masks/{}.png"}
"""


@pytest.fixture
def stack(tmp_path):
    """Two stacks of 20 slices, numbered without leading zeros; every fourth of the second one has no mask."""
    for folder in ("slices", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(40):
        name = f"{'ab'[number // 20]}_{number % 20}"
        Image.new("L", (40, 40), number).save(tmp_path / f"slices/{name}.png")
        if number < 20 or number % 4:
            Image.fromarray(np.tile(np.uint8([0, 255]), (40, 20))).save(tmp_path / f"masks/{name}.png")
    (tmp_path / "stack.yaml").write_text(STACK)
    return tmp_path


def slices(path):
    names = [line.split()[0].removeprefix("slices/").removesuffix(".png") for line in path.read_text().splitlines()]
    return {(name[0], int(name[2:])) for name in names}


@pytest.mark.parametrize("seed", range(4))
def test_contiguous_validation_slices_have_no_neighbour_in_a_training_list(stack, seed):
    words = ["splits", "draw", stack / "stack.yaml", "--count", 2, "--count", 5, "--seed", seed]
    done = command(*words, "--val", 6, "--contiguous", "--gap", 2)
    assert done.exit_code == 0, done.exception
    val = slices(stack / "splits/val.txt")
    places = sorted("ab".index(letter) * 20 + number for letter, number in val)
    has_mask = [number for number in range(40) if number < 20 or number % 4]
    first = has_mask.index(places[0])
    assert places == has_mask[first : first + 6]  # in a row, as far as they have labels
    for count in (2, 5):
        labeled, unlabeled = (slices(stack / f"splits/{count}/{kind}.txt") for kind in ("labeled", "unlabeled"))
        assert len(labeled) == count and not labeled & unlabeled
        used = labeled | unlabeled
        assert not {(letter, number + step) for letter, number in val for step in range(-2, 3)} & used
        left_out = {(letter, number) for letter in "ab" for number in range(20)} - used - val
        assert f"in no list, because they are too close to validation images: {len(left_out)}" in done.stdout
        assert all(
            any(letter == other and abs(number - near) <= 3 for other, near in val) for letter, number in left_out
        )
    assert slices(stack / "splits/2/labeled.txt") < slices(stack / "splits/5/labeled.txt")
    again = command(*words[:3], "--count", 5, "--seed", seed, "--gap", 2)  # val.txt is there by now
    assert again.exit_code == 0, again.exception
    checked = command("data", "check", stack / "stack.yaml")
    assert "are good" in " ".join(checked.stdout.split()), checked.exception


def test_frames_of_volumes_are_kept_apart_too(tmp_path):
    from rankmatch.data.draw import beside, in_a_row

    samples = [
        Sample(f"{name}.tif#{number}", f"{name}_l.tif#{number}") for name in ("v1", "v2") for number in range(12)
    ]
    val, between = in_a_row(samples[::-1], 4, seed=3)
    numbers = sorted(int(name.partition("#")[2]) + 12 * (name[1] == "2") for name in val)
    assert numbers == list(range(numbers[0], numbers[0] + 4)) and not between
    assert beside(samples, {"v1.tif#11"}, 1) == {"v1.tif#10"}  # the first frame of the next volume is no neighbour
    assert beside(samples, {"v1.tif#9"}, 2) == {f"v1.tif#{number}" for number in (7, 8, 10, 11)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--contiguous"], "--val, the number of consecutive slices, must be given"),
        (["--gap", 1], "--gap must be given with --val, or with"),
        (["--gap", 1, "--val", 2], "--gap must be given with --contiguous if --val draws images"),
        (["--contiguous", "--val", 35], "--val must be at most 34 of the 35 labeled images; got 35"),
    ],
)
def test_rows_of_slices_that_cannot_be_drawn_are_refused(words, message, stack):
    done = command("splits", "draw", stack / "stack.yaml", "--count", 2, *words)
    assert message in str(done.exception) and not (stack / "splits").exists()
