from orchestration.grids import grid
from orchestration.results import report, settings
from orchestration.tables import formats


def records(loaded, num_steps):
    """Rows of finished cells, as `run_table.collect` gives them."""
    numerics = [cell.config.numerics for cell in loaded.cells]
    return [
        {
            "signature": cell.signature,
            "num_steps": num_steps[each.method.name],
            "dataset": each.dataset.name,
            "crop_size": each.augment.crop_size,
            "best_miou": 0.7,
            **cell.axes,
        }
        for cell, each in zip(loaded.cells, numerics, strict=True)
    ]


def test_a_table_says_what_it_compares():
    loaded = grid.load("pascal_classic", ["split=[92,183]", "backbone=resnet50", "method=[supervised,rankmatch]"])
    said = settings.describe(loaded.cells, records(loaded, {"supervised": 880, "rankmatch": 104_880}))
    assert said == (
        "ours: resnet50, crop 321, 64 agents, preset authors_code, 8 or 8 + 8 images a step, learning rate 0.001, "
        "80 epochs, supervised takes 880 steps and the other methods 104,880"
    )
    paper = grid.load("pascal_classic", ["preset=paper", "split=92", "backbone=resnet50", "method=rankmatch", "seed=0"])
    assert settings.describe(paper.cells, []) == (
        "ours: resnet50, crop 513, 128 agents, preset paper, 8 + 8 images a step, learning rate 0.001, 80 epochs"
    )


def test_scoring_by_windows_is_said_and_that_of_whole_images_is_not():
    words = ["split=1_4", "backbone=resnet50", "method=rankmatch", "seed=0"]
    sliding, both = (grid.load("cityscapes", [*words, *more]) for more in ([], ["evaluation.mode=[whole,sliding]"]))
    assert ", crop 801, scored by windows of the crop, 64 agents," in settings.describe(sliding.cells, [])
    assert ", scored by windows of the crop or whole, " in settings.describe(both.cells, [])


def test_published_figures_of_another_crop_are_marked_and_the_note_says_so():
    loaded = grid.load("pascal_classic", ["split=92", "backbone=resnet50", "method=[supervised,unimatch]", "seed=0"])
    rows = records(loaded, {"supervised": 880, "unimatch": 104_880})
    table = report.build_table(rows, loaded.cells, loaded.table, baseline=loaded.baseline)
    text = formats.to_markdown(table) + formats.markdown_note(table)
    assert "44.0† (+26.0)" in text and "71.9 (-1.9)" in text
    assert "† published with crop 513, not 321" in text and "preset authors_code" in text
