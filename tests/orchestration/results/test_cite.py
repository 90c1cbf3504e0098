"""What a paper says and cites is printed from the runs: what differs among them is said, never averaged away."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import rankmatch
from orchestration.commands.main import app
from orchestration.grids.cells import choices_of, experiments_folder
from orchestration.results import citation, facts
from rankmatch.config import AugmentConfig, BackboneConfig, DatasetConfig, MethodConfig, NumericsConfig
from rankmatch.methods import METHODS

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = {"rankmatch": "0.1.0", "torchvision": "0.29.1", "numpy": "2.4.0"}
UNIMATCH = """@inproceedings{yang2023unimatch,
  title = {{Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation}},
  author = {Yang, Lihe and Qi, Lei and Feng, Litong and Zhang, Wayne and Shi, Yinghuan},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2023},
}"""
SOFTWARE = """@software{rankmatch_grid,
  title = {{RankMatch, the whole grid}},
  author = {{The authors of the RankMatch grid}},
  version = {0.1.0},
  note = {commit c0ffeec0ffee},
}"""


def run(method: str, split: str, *, dataset: str = "pascal", num_labels: int | None = None, **provenance: object):
    numerics = NumericsConfig(
        split=split,
        dataset=DatasetConfig(name=dataset, num_classes=21),
        backbone=BackboneConfig(name="resnet101"),
        method=MethodConfig(name=method),
        augment=AugmentConfig(),
    )
    record = {"num_steps": 1840, "duration_s": 7200.0, "gpu_duration_s": 7200.0, "code": "c0ffee" * 7}
    made = {"device": "NVIDIA H100", "num_gpus": 1, "torch": "2.14.1", "lock_sha256": "10c", "python": "3.11.2",
            "packages": PACKAGES}  # fmt: skip
    axes = {"method": method, "split": split}
    return facts.Run(axes, numerics, record, made | provenance, num_labels or int(split))


RUNS = [run(method, split) for method in ("supervised", "unimatch") for split in ("92", "183")]


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{(\w+),$", text, re.M)


def test_citation_has_the_labels_the_versions_and_an_entry_for_all_that_was_used() -> None:
    text = citation.citation(RUNS)
    assert "That is 92 labeled images (split 92) or 183 labeled images (split 183). We compare" in text
    assert text.partition("\n")[0].endswith(
        "The code is that of commit c0ffeec0ffee. The software is RankMatch, the whole grid, version 0.1.0, with "
        "Python 3.11.2, torchvision 0.29.1 and NumPy 2.4.0."
    )
    assert keys(text) == ["mai2024rankmatch", "chen2018deeplabv3plus", "everingham2010pascal", "hariharan2011sbd",
                          "he2016resnet", "yang2023unimatch", "rankmatch_grid"]  # fmt: skip
    assert UNIMATCH in text and text.endswith(f"{SOFTWARE}\n")
    assert citation.missing(RUNS) == []


def test_values_that_differ_are_said_with_their_runs() -> None:
    other = run("unimatch", "183", python="3.12.0", packages=PACKAGES | {"rankmatch": "0.2.0"})
    other = replace(other, record=other.record | {"code": "beef" * 10, "gpu_duration_s": 3600.0})
    text = citation.citation([*RUNS[:3], other])
    assert (
        "version 0.1.0 (supervised training; UniMatch with split 92) or 0.2.0 (UniMatch with split 183), with" in text
    )
    assert "Python 3.11.2 (supervised training; UniMatch with split 92) or 3.12.0 (UniMatch with split 183)," in text
    assert "  version = {0.1.0 and 0.2.0},\n  note = {commit c0ffeec0ffee and beefbeefbeef},\n" in text
    assert "took 7 GPU-hours in all" in text


def test_what_is_not_known_is_left_out_and_named() -> None:
    own = replace(run("fixmatch", "20", dataset="mine", packages={}, python=""), num_labels=None)
    text = citation.citation([own])
    assert "labeled images. " not in text and "None" not in text and "sohn2020fixmatch" in text
    assert f"version {rankmatch.__version__}." in text
    assert citation.missing([own]) == [
        "the number of labeled images, of 1 of 1 runs",
        "a reference for the data set mine, as it is your own",
    ]


def test_figures_of_the_last_epoch_are_said_to_be_those() -> None:
    assert "predicted on whole images, after the last epoch." in citation.citation(RUNS, last=True)
    assert "predicted on whole images, after the epoch in which it is highest." in citation.citation(RUNS)


def test_every_choice_has_references_and_every_reference_is_whole_and_used() -> None:
    known = yaml.safe_load((experiments_folder() / "paper" / "references.yaml").read_text())
    assert known["method"].keys() == METHODS.keys()
    assert known["dataset"].keys() == set(choices_of("dataset"))
    assert known["backbone"].keys() == set(choices_of("backbone"))
    groups = [known["always"], *(names for kind in ("method", "dataset", "backbone") for names in known[kind].values())]
    assert {name for names in groups for name in names} == known["entries"].keys()
    for name, entry in known["entries"].items():
        place = {"inproceedings": "booktitle", "article": "journal"}[entry["type"]]
        assert entry.keys() == {"type", "title", "author", place, "year"}, name
        assert entry["year"] in name and all("," in one for one in entry["author"].split(" and ")), name


def test_software_and_paper_are_those_of_the_citation_file() -> None:
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    known = yaml.safe_load((experiments_folder() / "paper" / "references.yaml").read_text())
    assert known["software"]["title"] == cff["title"]
    assert known["software"]["author"] == " and ".join(f"{{{one['name']}}}" for one in cff["authors"])
    paper, wanted = known["entries"]["mai2024rankmatch"], cff["preferred-citation"]
    assert (paper["title"], paper["booktitle"]) == (wanted["title"], wanted["collection-title"])
    assert paper["author"] == " and ".join(f"{one['family-names']}, {one['given-names']}" for one in wanted["authors"])
    assert paper["year"] == str(wanted["year"])


def cited(*words: object):
    return CliRunner().invoke(app, ["table", "--cite", *map(str, words)])


def test_command_prints_the_citation_of_what_was_launched_and_no_table(launched) -> None:
    done = cited("--grid", launched.file, "--runs", launched.runs)
    assert done.exit_code == 0, done.exception
    assert "the labeled images are those of split 4. That is 4 labeled images. We compare" in done.stdout
    assert keys(done.stdout) == [
        "mai2024rankmatch",
        "chen2018deeplabv3plus",
        "sandler2018mobilenetv2",
        "rankmatch_grid",
    ]
    assert f"version = {{{rankmatch.__version__}}}" in done.stdout and "report.md" not in done.stdout
    part = cited("--grid", launched.file, "--runs", launched.runs, "method=supervised", "--metric", "last")
    assert "The method is supervised training." in part.stdout and "after the last epoch" in part.stdout


@pytest.mark.parametrize("words", [("--format", "latex"), ("--statistics",), ("-o", "table.tex"), ("--energy",)])
def test_option_of_a_table_is_refused(words) -> None:
    assert "--cite must be given without --" in str(cited(*words).exception)
