import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from orchestration.commands.main import app
from orchestration.grids.grid import load
from orchestration.results import facts
from orchestration.results.paragraph import methods_paragraph, missing
from orchestration.runs.run_folder import folders
from rankmatch.config import AugmentConfig, BackboneConfig, DatasetConfig, MethodConfig, NumericsConfig
from rankmatch.methods import METHODS

H100 = {"device": "NVIDIA H100", "num_gpus": 1, "torch": "2.14.1", "lock_sha256": "10c"}
EXPECTED = (
    "Each model is a DeepLabV3+ on ResNet-101 (output stride 16) whose backbone starts from pretrained weights. The "
    "data set is pascal (21 classes); the labeled images are those of split 92 or 183. We compare supervised training "
    "and RankMatch. Pseudo-labels count where their confidence is at least 0.95. RankMatch uses 128 agents (selection: "
    "orthogonal), K = 4, and the weight 0.1 for its consistency term (rank). An epoch of supervised training is one "
    "pass over the labeled images. The preset is paper (supervised training) or authors_code (with "
    "trainer.learning_rate_lag=0) (RankMatch); the losses have epsilon = 1e-10, halve_total = true, "
    "rank_divide_by_orders = true, rank_ignores_padding = false, weight_fp = 0.5, weight_s1 = 0.25 and weight_s2 = "
    "0.25. The labeled loss is cross-entropy over all valid pixels. The box of CutMix comes from another crop of the "
    "same image. We use SGD with momentum 0.9 and weight "
    "decay 0.0001. The learning rate of the backbone starts at 0.001 (supervised training) or 0.002 (RankMatch) and "
    "that of the other layers at 0.01 (supervised training) or 0.02 (RankMatch); both decay by a polynomial schedule "
    "with power 0.9. Each step takes 8 labeled images (supervised training) or 8 labeled and 8 unlabeled images "
    "(RankMatch), in crops of 321 × 321 pixels. A run lasts 80 epochs and takes 920 steps (split 92) or 1,840 steps "
    "(split 183). Each setting is trained with the random seeds 0 and 1 (supervised training) or the random seed 0 "
    "(RankMatch). We report the mIoU on the validation images, predicted on whole images, after the epoch in which it "
    "is highest. The 6 runs took 12.0 GPU-hours in all, on NVIDIA H100, 1 GPU a run. They were computed in float32 "
    "with PyTorch 2.14.1. The code is that of commit c0ffeec0ffee (supervised training) or c0ffeec0ffee with "
    "uncommitted changes (RankMatch)."
)


def run(method: str, split: str, seed: int) -> facts.Run:
    is_rank = method == "rankmatch"
    numerics = NumericsConfig(
        seed=seed,
        split=split,
        dataset=DatasetConfig(name="pascal", num_classes=21),
        backbone=BackboneConfig(name="resnet101"),
        method=MethodConfig(name=method, num_agents=128),
        augment=AugmentConfig(),
    )
    numerics.trainer.learning_rate = 0.002 if is_rank else 0.001
    record = {
        "num_steps": 10 * int(split) if split == "92" else 1840, "duration_s": 7200.0, "gpu_duration_s": 7200.0,
        "code": "c0ffee" * 7 + ("+ab" if is_rank else ""),
    }  # fmt: skip
    axes = {"method": method, "split": split, "seed": str(seed)}
    return facts.Run(axes, numerics, record, H100 | {"commit": "c0ffee" * 7})


RUNS = [
    run(method, split, seed)
    for method in ("supervised", "rankmatch")
    for split in ("92", "183")
    for seed in ((0, 1) if method == "supervised" else (0,))
]


def test_paragraph_says_what_the_runs_had_and_where_rows_differ() -> None:
    assert methods_paragraph(RUNS) == EXPECTED
    assert missing(RUNS) == []


def test_what_runs_do_not_tell_is_left_out_and_named() -> None:
    record = {"code": "", "gpu_duration_s": None}
    poor = [replace(one, record=one.record | record, provenance={"commit_unknown": "no repository"}) for one in RUNS]
    text = methods_paragraph(poor)
    assert "commit" not in text and "hours" not in text and "None" not in text and "H100" not in text
    assert missing(poor) == [
        "the commit of the code, of 6 of 6 runs (no repository)",
        "the hash of requirements.lock, of 6 of 6 runs",
        "the hardware, of 6 of 6 runs",
        "GPU-hours, of 6 of 6 runs",
    ]


def paragraph_of(name: str, *words: str) -> str:
    record = {"num_steps": 10, "gpu_duration_s": 1.0, "duration_s": 1.0, "code": "a"}
    cells = load(name, ["split=92", "seed=0", *words] if name != "cityscapes" else [*words]).cells
    return methods_paragraph([facts.Run(cell.axes, cell.config.numerics, record, {}) for cell in cells])


CHANGES = {
    "method.epsilon": "0", "method.halve_total": "false", "method.rank_divide_by_orders": "false",
    "method.rank_ignores_padding": "true", "method.weight_fp": "0.25", "method.weight_s1": "0.5",
    "method.weight_s2": "0.5", "method.weight_rank": "0.2", "method.num_agents": "32", "method.top_k": "5",
    "method.selection": "top_n", "method.consistency": "kl", "method.confidence_threshold": "0.9",
    "method.ohem": "true", "augment.cutmix_partner": "other_image", "augment.brightness": "0.125",
    "trainer.learning_rate_lag": "0",
}  # fmt: skip


def test_every_setting_that_the_method_declares_changes_the_paragraph() -> None:
    declared = {f"method.{name}" for name in METHODS["rankmatch"].settings}
    assert declared <= CHANGES.keys()  # a new one is added here
    words = ("method=rankmatch", "backbone=resnet50")
    usual = paragraph_of("pascal_classic", *words)
    same = [key for key, value in CHANGES.items() if paragraph_of("pascal_classic", *words, f"{key}={value}") == usual]
    assert same == []


def test_paragraph_names_preset_and_what_differs_ohem_and_the_partner() -> None:
    words = ("method=rankmatch", "backbone=resnet50", "method.rank_divide_by_orders=false", "method.epsilon=0")
    text = paragraph_of("pascal_classic", *words, "augment.brightness=0.125")
    assert "The preset is authors_code (with method.epsilon=0, method.rank_divide_by_orders=false); the losses" in text
    assert " have epsilon = 0, halve_total = true, rank_divide_by_orders = false, " in text
    assert "The views are those of UniMatch, but with brightness = 0.125." in text
    hard = paragraph_of("cityscapes", "split=1_4", "seed=0")
    assert "over the hard pixels (OHEM: those of a probability of at most 0.7, and at least 100,000 pixels an" in hard
    other = paragraph_of("pascal_classic", *words, "augment.cutmix_partner=other_image")
    assert "The box of CutMix comes from another image." in other


def test_agents_are_worded_with_their_selection_and_all_pixels_have_no_number() -> None:
    assert "RankMatch uses all pixels as agents, K = 4, " in paragraph_of(
        "ablation_agent_selection", "method.selection=all"
    )
    assert "RankMatch uses all pixels as agents, 128 agents (selection: random), 128 agents (selection: top n) or " in (
        paragraph_of("ablation_agent_selection")
    )


def test_paragraph_says_how_many_steps_were_left_out_and_by_which_setting() -> None:
    runs = [replace(one, record=one.record | {"num_steps": 2}) for one in RUNS]
    assert "left out" not in methods_paragraph(runs)
    for one in runs:
        one.numerics.trainer.when_not_finite = "leave_out"
    try:
        sentence = "A step that is not finite is left out, once (trainer.when_not_finite=leave_out): "
        assert f"{sentence}no step. Each" in methods_paragraph(runs)
        of_rank = {"steps_left_out": [1]}
        broken = [replace(one, record=one.record | of_rank) if one.numerics.method.name == "rankmatch" else one
                  for one in runs]  # fmt: skip
        told = "no step (supervised training) or 1 of 2 steps (RankMatch)"
        assert f"takes 2 steps. {sentence}{told}. Each" in methods_paragraph(broken)
        assert facts.settings(broken)["left out (trainer.when_not_finite=leave_out)"] == told
    finally:
        for one in runs:
            one.numerics.trainer.when_not_finite = "stop"


def described(*words: object) -> object:
    return CliRunner().invoke(app, ["describe", *map(str, words)])


def test_command_describes_what_was_launched(launched) -> None:
    done = described(launched.file, "--runs", launched.runs)
    assert done.exit_code == 0, done.exception
    [text] = done.stdout.splitlines()
    assert "on MobileNetV2 (width 0.25, output stride 16) whose backbone starts from random weights" in text
    assert "Each setting is trained with the random seeds 0 and 1." in text and "takes 2 steps." in text
    assert re.search(r"The 4 runs took \d+ seconds in all, on .+, without a GPU\.", text)
    commits = {folder.result()["provenance"]["commit"] for folder in folders(launched.runs / "small").values()}
    assert all(f"The code is that of commit {commit[:12]}" in text for commit in commits if commit)
    report = (launched.runs / "small" / "report.md").read_text()
    assert text in report and "- learning rate of the backbone: 0.0025\n" in report


def test_command_names_how_many_cells_it_describes_and_refuses_none(launched, tmp_path) -> None:
    done = described(launched.file, "--runs", tmp_path)
    assert "there is no" in str(done.exception)
    (tmp_path / "small").mkdir()
    done = described(launched.file, "--runs", tmp_path)
    assert str(done.exception) == "a finished run is needed to describe a grid; of the 4 cells of small none is done"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0"), (1.0, "<0.001"), (360.0, "0.1"), (5400.0, "1.5"), (43000.0, "11.9"), (4e6, "1,111")],
)
def test_hours_are_written_with_digits_that_count(seconds: float, text: str) -> None:
    assert facts.hours(seconds) == text


def test_runs_of_a_grid_are_those_that_are_done(launched) -> None:
    cells = load(str(launched.file), ["seed=[0,1,2]"], launched.runs).cells
    assert len(cells) == 6 and len(facts.finished_runs(launched.runs / "small", cells)) == 4
