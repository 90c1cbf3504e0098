"""A hundred kinds of bad input, each through what reads it, and each refused by one clear line."""

import itertools
from collections import Counter
from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from orchestration.grids import grid, grid_spec, values
from orchestration.machine import yaml_text
from orchestration.on_slurm import cluster
from orchestration.runs.run_folder import RunFolder
from orchestration.search import spaces
from orchestration.tables import layouts
from rankmatch.config import DatasetConfig, MethodConfig, NumericsConfig, TrainConfig
from rankmatch.data import lists
from rankmatch.data.pixels import read_image, read_label
from rankmatch.data.splits import read_splits
from rankmatch.execution import ExecutionConfig
from rankmatch.models.state_dicts import read_state_dict

LONGEST = 1200
"""Characters of a refusal; those that name all allowed keys are long."""
_LAUGHS = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 8)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "zero byte": b"set: \x00\n",
    "UTF-16": "set: {}\n".encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbfset: {}\n",
    "Latin-1": b"set: \xe9\n",
    "tab as indentation": b"set:\n\tdataset: synthetic\n",
    "key that occurs twice": b"set: {}\nset: {}\n",
    "nested without end": b"set: " + b"[" * 5000,
    "list in itself": b"set: &x [*x]\n",
    "mapping in itself": b"set: &x {dataset: *x}\n",
    "aliases of aliases": _LAUGHS.encode() + b"set: *i\n",
    "tag that runs code": b"set: !!python/object/apply:os.system [echo]\n",
    "tag of its own": b"set: !secret {dataset: synthetic}\naxes: {seed: [0]}\n",
    "alias of nothing": b"set: *no\n",
    "list as a whole": b"- a\n",
    "word as a whole": b"word\n",
    "bracket without end": b"set: [\n",
    "list as a key": b"? [a]\n: b\n",
    "space that is none": "set\u00a0x: 1\n".encode(),
    "two documents": b"set: {}\n---\nset: {}\n",
    "eight megabytes": b"#" * (yaml_text.MAX_BYTES + 1),
    "unknown key": b"sett: {}\n",
}
YAML_READERS = {
    "grid": lambda path: grid.load(str(path)),
    "site": lambda path: cluster.load(str(path)),
    "layout": lambda path: layouts.read_file(path, ["seed"]),
    "search": lambda path: spaces.load(str(path)),
}
GRIDS = {
    "axis that is a word": "axes: {seed: abc}",
    "axis without values": "axes: {seed: []}",
    "axis with a value twice": "axes: {seed: [0, 0]}",
    "unknown setting": "set: {trainer.epoch: 2}\naxes: {seed: [0]}",
    "unknown method": "axes: {method: [rankmath]}",
    "negative number of epochs": "set: {trainer.epochs: -1}\naxes: {seed: [0]}",
    "word for a number": "set: {trainer.epochs: many}\naxes: {seed: [0]}",
    "number that is none": "set: {trainer.learning_rate: nan}\naxes: {seed: [0]}",
    "number without end": "set: {trainer.learning_rate: inf}\naxes: {seed: [0]}",
    "digits without end": f"set: {{trainer.epochs: {'9' * 5000}}}\naxes: {{seed: [0]}}",
    "mapping for a number": "set: {trainer.epochs: {a: 1}}\naxes: {seed: [0]}",
}
OVERRIDES = [
    "", "seed", "=1", "seed=", "seed=a", "seed=[0,0]", "seed=[0", "seed=0]", "seed=1.5", "sed=1", "seed=-1",
    "seed=[[0]]",
    "trainer.epochs=0", "trainer.epochs=1e9999", "trainer.learning_rate=nan", "trainer.compile=maybe", "split=[]",
    "method=no", "backbone=../../x", "dataset=/no/such.yaml", "trainer=1", "trainer.epochs.more=1", "seed='1",
]  # fmt: skip
LISTS = {
    "not UTF-8": b"\xff\xfe a\n",
    "three words": b"a.png b.png c.png\n",
    "one word": b"a.png\n",
    "absolute path": b"/etc/passwd b.png\n",
    "path that leads out": b"../a.png b.png\n",
    "path that leads out by a detour": b"x/../../a.png b.png\n",
    "label that leads out": b"a.png ../b.png\n",
    "frames that end before they begin": b"v.tif#5-3 l.tif#5-3\n",
    "other numbers of frames": b"v.tif#0-3 l.tif#0-2\n",
    "frames without end": b"v.tif#0-99999999999 l.tif#0-99999999999\n",
    "image of the validation": b"e.png b.png\n",
    "nothing": b"",
    "empty lines": b"\r\n\r\n",
}


def png(image, kind="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(dtype, kind):
    return png(Image.fromarray(np.ones((4, 5), dtype)), kind)


def changed(content, place, byte):
    return content[:place] + bytes([byte]) + content[place + 1 :]


IMAGES = {
    "nothing": b"",
    "no image": b"GIF89a, they say",
    "cut off": png(Image.effect_noise((64, 64), 90))[:-400],
    "numbers with a sign": grey(np.int32, "TIFF"),
    "fractions": grey(np.float32, "TIFF"),
    "more pixels than fit": png(Image.new("1", (2**15 + 1, 2**15), 1)),
    "a pixel layout that is none": changed(png(Image.new("RGB", (5, 4)), "DDS"), 80, 0),
    "lines that lie before the file": changed(png(Image.effect_noise((6, 5), 90).convert("RGB"), "PCX"), 65, 1),
    "several frames": png(Image.new("L", (5, 4)), "TIFF", save_all=True, append_images=[Image.new("L", (5, 4))]),
}
LABELS = {
    **{kind: content for kind, content in IMAGES.items() if kind not in ("numbers with a sign",)},
    "colours": png(Image.new("RGB", (5, 4))),
    "colours with alpha": png(Image.new("RGBA", (5, 4))),
    "CMYK": png(Image.new("CMYK", (5, 4)), "TIFF"),
    "lossy": png(Image.new("RGB", (5, 4)), "JPEG"),
}
WEIGHTS = {"nothing": b"", "text": b"weights", "half an archive": b"PK\x03\x04" + bytes(100), "zeros": bytes(1000)}
RESULTS = {
    "half a file": b'{"step": 3',
    "list": b"[]",
    "word": b'"done"',
    "without its numbers": b"{}",
    "words for numbers": b'{"finished": true, "step": "three", "num_steps": 30, "epoch": 1, "num_epochs": 3}',
    "nested without end": b"[" * 100_000,
    "not UTF-8": b"\xff\xff",
}


def list_reader(tmp_path):
    def read(content):
        root = tmp_path / "root"
        (root / "splits" / "2").mkdir(parents=True, exist_ok=True)
        (root / "x").mkdir(exist_ok=True)
        for outside in ("a.png", "b.png"):
            (tmp_path / outside).touch()
        for name, text in (("2/labeled.txt", content), ("2/unlabeled.txt", b"c.png\n"), ("val.txt", b"e.png f.png\n")):
            (root / "splits" / name).write_bytes(text)
        numerics = NumericsConfig(
            split="2", dataset=DatasetConfig(name="mine"), method=MethodConfig(name="rankmatch", num_agents=4)
        )
        return read_splits(TrainConfig(numerics=numerics, execution=ExecutionConfig(data_root=str(root))))

    return read


def result_reader(tmp_path):
    def read(content):
        folder = RunFolder(tmp_path / "cells" / "0123456789ab-rankmatch-4-s0")
        folder.path.mkdir(parents=True, exist_ok=True)
        (folder.path / "result.json").write_bytes(content)
        return folder.result()

    return read


def all_cases(tmp_path):
    """Yield each kind of bad input by name, what reads it, and where it is, if in a file."""
    sound = "set: {dataset: synthetic, backbone: mobilenet_v2, backbone.pretrained: false}\naxes: {seed: [0]}\n"
    (tmp_path / "sound.yaml").write_text(sound)
    path = tmp_path / "bad.yaml"
    for reader, read in YAML_READERS.items():
        for kind, content in YAML.items():
            yield f"YAML of a {reader}: {kind}", read, content, path
    for kind, text in GRIDS.items():
        yield f"grid: {kind}", YAML_READERS["grid"], text.encode(), path
    for word in OVERRIDES:
        yield f"override: {word!r}", lambda word: grid.load(str(tmp_path / "sound.yaml"), [word]), word, None
    for kind, content in LISTS.items():
        yield f"split list: {kind}", list_reader(tmp_path), content, None
    for kind, content in IMAGES.items():
        yield f"image: {kind}", lambda path: read_image(path, path.name), content, tmp_path / "image.tif"
    for kind, content in LABELS.items():
        yield f"label: {kind}", lambda path: read_label(path, path.name), content, tmp_path / "label.tif"
    for kind, content in WEIGHTS.items():
        yield f"weights: {kind}", read_state_dict, content, tmp_path / "weights.pt"
    for kind, content in RESULTS.items():
        yield f"result of a run: {kind}", result_reader(tmp_path), content, None


def fault_of(read, content, path):
    """Return what is wrong with how an input was refused; nothing if it was refused by one clear line."""
    if path is not None:
        path.write_bytes(content)
    try:
        read(content if path is None else path)
    except ValueError as error:
        said = str(error)
        unclear = "\n" in said.strip() or not 15 <= len(said) <= LONGEST or "Traceback" in said
        return f"unclear: {said[:300]!r}" if unclear else ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return "taken"


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF data")
def test_a_hundred_kinds_of_bad_input_are_refused_by_one_clear_line_each(tmp_path, tell_points):
    cases = list(all_cases(tmp_path))
    faults = {name: fault for name, *case in cases if (fault := fault_of(*case))}
    kinds = Counter(name.partition(":")[0] for name, *_ in cases)
    for kind, number in kinds.items():
        tell_points(kind, number, [name for name in faults if name.startswith(f"{kind}:")])
    assert faults == {}
    assert len(cases) >= 100


MEANT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(st.binary(max_size=300))
def test_any_bytes_are_yaml_or_one_line(tmp_path, content):
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    try:
        found = yaml_text.read(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert isinstance(found, str | list | dict)


@QUICK
@given(st.sampled_from(["seed", "split", "method", "trainer.epochs", "dataset.label_map", "class_names", "no"]), MEANT)
def test_any_override_is_a_value_of_its_field_or_a_value_error(key, text):
    try:
        values.check_key(key)
        node = values.parse(key, text)
        found = values.read_axis(key, node) if values.is_axis(key, node) else values.read_value(key, node)
    except ValueError as error:
        assert len(str(error)) > 10
    else:
        assert found is not None


@QUICK
@given(st.lists(MEANT, min_size=1, max_size=2))
def test_names_that_a_line_can_hold_are_read_again(names):
    try:
        line = lists.line_of(*names)
    except ValueError as error:
        assert "rename the file" in str(error)
    else:
        assert lists.words_of(line) == names and "\n" not in line


def _sound_files():
    drawn = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    colours, deep = Image.fromarray(drawn), Image.fromarray(drawn[..., 0].astype(np.uint16) * 257)
    shapes = {"RGB": colours, "L": colours.convert("L"), "P": colours.convert("P"), "I;16": deep,
              "CMYK": colours.convert("CMYK"), "RGBA": colours.convert("RGBA")}  # fmt: skip
    of_mode = {"RGB": ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM", "TGA", "PCX", "SGI", "DDS", "ICO"),
               "L": ("TIFF", "PNG"), "P": ("PNG", "GIF"), "I;16": ("PNG", "TIFF", "PPM"), "CMYK": ("JPEG", "TIFF"),
               "RGBA": ("PNG", "WEBP")}  # fmt: skip
    for mode, formats in of_mode.items():
        for kind in formats:
            file = BytesIO()
            shapes[mode].save(file, kind)
            yield file.getvalue()


DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL's, of tags
@settings(QUICK, max_examples=300)
@given(st.sampled_from([*_sound_files()]), DAMAGE)
def test_damaged_file_of_any_kind_is_read_or_refused_by_one_line(tmp_path, content, damage):
    path = tmp_path / "any.png"
    for place, gone, put in damage:
        at = int(place * len(content))
        content = content[:at] + put + content[at + gone :]
    path.write_bytes(content)
    for read, held in itertools.product((read_image, read_label), (None, content)):
        assert fault_of(lambda _, read=read, held=held: read(path, "any.png", content=held), content, None) in (
            "", "taken"
        )  # fmt: skip


@QUICK
@given(
    st.lists(st.sampled_from([b"a.png", b" ", b"\n", b"\r", b"\t", b"#", b"#0-9", b"/", b"..", b"\xff", b"\0", b"x"]))
)
def test_any_bytes_of_a_list_are_read_or_refused_by_one_line(tmp_path, parts):
    assert fault_of(list_reader(tmp_path), b"".join(parts), None) in ("", "taken")


@QUICK
@given(st.binary(max_size=200))
def test_any_bytes_of_a_result_are_damage_or_a_result(tmp_path, content):
    assert fault_of(result_reader(tmp_path), content, None) in ("", "taken")


@pytest.mark.filterwarnings("ignore::orchestration.machine.damage.DamageWarning")
@QUICK
@given(st.sampled_from(["owner.json", "events.jsonl", "epochs.jsonl", "log"]), st.binary(max_size=200))
def test_any_bytes_in_an_attempt_harm_no_look_at_its_cell(tmp_path, name, content):
    folder = RunFolder(tmp_path / "cells" / "0123456789ab-rankmatch-4-s0")
    if not folder.path.exists():
        folder.create("numerics: {}\n", {"method": "rankmatch"})
        folder.claim({"campaign": "c"}).event("started", step=0)
    path = folder.attempts()[0].path / name
    before = path.read_bytes() if path.exists() else b""
    path.write_bytes(content)
    try:
        assert folder.look().status.value
        assert isinstance(folder.epochs(), list) and isinstance(folder.ends("c"), list)
    except ValueError as error:
        assert str(path) in str(error)
    finally:
        path.write_bytes(before)


@QUICK
@given(st.dictionaries(st.sampled_from(["rows", "columns", "blocks", "over", "names"]), st.lists(MEANT, max_size=3)))
def test_any_layout_of_a_table_is_read_or_refused_by_one_line(tmp_path, content):
    path = tmp_path / "layout.yaml"
    path.write_text(grid_spec.to_yaml(content), encoding="utf-8")
    try:
        layouts.read_file(path, ["seed", "split"])
    except ValueError as error:
        assert str(error).startswith(f"{path}") and "\n" not in str(error)


def test_sound_files_beside_the_bad_ones_are_read(tmp_path):
    """The refusals are not of everything."""
    Image.new("L", (5, 4), 3).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png", "a.png")).shape == (4, 5, 3)
    assert (read_label(tmp_path / "a.png", "a.png") == 3).all()
    (tmp_path / "sound.yaml").write_text(
        "set: {dataset: synthetic, backbone.pretrained: false}\naxes: {seed: [0, 1]}\n"
    )
    assert len(grid.load(str(tmp_path / "sound.yaml")).cells) == 2
    assert len(list_reader(tmp_path)(b"a.png a.png\n").labeled) == 1
