"""The documentation holds what the code has: pages, settings, commands and messages."""

import re
from pathlib import Path

import contents
import from_code
import pytest
import yaml
from from_code import commands, library, messages, settings

from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.runs.failure_class import FailureClass
from rankmatch.config import NumericsConfig, short_names

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def test_first_page_leads_to_every_other_once():
    trees = contents.trees((DOCS / "index.md").read_text())
    listed = [line for line in trees.splitlines() if (DOCS / f"{line}.md").is_file()]
    assert sorted(listed) == sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "index")


def test_no_page_has_the_name_of_one_that_sphinx_makes():
    assert not {"search", "genindex", "py-modindex"} & {path.stem for path in DOCS.glob("*.md")}


def test_every_setting_has_a_row():
    page = from_code.PARTS["settings"]()
    rows = re.findall(r"^\| `([\w.]+)` \|", page, re.M)
    cluster = [f"cluster.{name}" for name in ClusterConfig.__dataclass_fields__]
    assert sorted(rows) == sorted([*short_names(), *cluster])
    assert "| `trainer.keep_checkpoints` | `0` | How many of them stay after the training;" in page
    assert (
        "Read existing labels"
        in settings.field_texts(type(settings.ExecutionConfig().trainer))["pseudo_label_accuracy"]
    )


def test_settings_that_change_numbers_are_told_from_the_others():
    page = from_code.PARTS["settings"]()
    trainer = page.partition("## trainer\n")[2].partition("\n## ")[0]
    identity, _, others = trainer.partition("**Not part of it.**")
    assert "`trainer.learning_rate`" in identity and "`trainer.num_data_workers`" in others
    assert {*re.findall(r"`trainer\.(\w+)`", identity)} >= {*type(NumericsConfig().trainer).__dataclass_fields__}


def test_every_command_has_a_section_with_its_options():
    page = from_code.PARTS["commands"]()
    names = [name for name, _ in commands.all_commands()]
    assert {"rankmatch launch", "rankmatch data check", "rankmatch site detect"} <= {*names}
    assert re.findall(r"^## (.*)$", page, re.M) == sorted(names)
    launch = page.partition("## rankmatch launch\n")[2].partition("\n## ")[0]
    assert "| `--dry-run` | Only print what would run, and about how long. |" in launch


def test_every_text_of_a_fault_is_on_the_page_of_messages():
    page = from_code.PARTS["messages"]()
    for text in (
        "``… must be one of …; got …``",
        "``trainer.keep_checkpoints must be at most trainer.num_checkpoints=…; got …``",
        "``a newer attempt has begun``",
        "``Ray does not start``",  # what the doctor says that a fault breaks
    ):
        assert text in page


def test_texts_that_no_person_meets_are_not_messages(tmp_path):
    (tmp_path / "rankmatch").mkdir()
    (tmp_path / "rankmatch" / "some.py").write_text(
        '"""A docstring of four words."""\n'
        'def f(x: Float[Tensor, "batch height width"]) -> None:\n'
        '    """Another docstring of words."""\n'
        '    show("<th class=a b c>")\n'
        '    if x: raise ValueError("short")\n'
        '    raise ValueError(f"x must be {x:.2f} " "here")\n'
    )
    assert {message.text for message in messages.messages(tmp_path)} == {"short", "x must be … here"}


def test_every_message_that_is_explained_is_one_of_the_program():
    page = (DOCS / "troubleshooting.md").read_text()
    explained = re.findall(r"^### `(.*)`$", page, re.M)
    texts = {message.text.replace("`", "") for message in messages.messages(ROOT)}
    assert len(explained) >= 15 and {*explained} <= texts


def test_every_class_of_failure_has_a_row_with_its_policy():
    page = from_code.PARTS["failures"]()
    assert re.findall(r"^\| `(.*?)` ", page, re.M) == [one.value for one in FailureClass]
    assert "| `node failure` |  | as long as there is progress, on another node |" in page
    assert "it claimed an attempt: no Python, no sources, a missing module. | up to 4 times without progress" in page


def test_every_test_that_a_claim_names_is_there():
    rows = re.findall(r"^\| .* \| `(tests/.*)` \|$", (DOCS / "correctness.md").read_text(), re.M)
    assert len(rows) > 20
    for file, name in (row.split("::") for row in rows):
        assert f"\ndef {name}(" in (ROOT / file).read_text(), name


def test_every_module_of_the_library_page_is_there():
    for module in library.MODULES:
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_plan_of_the_tutorial_ends_as_it_says():
    page = (DOCS / "tutorial.md").read_text()
    grid = yaml.safe_load((ROOT / "experiments/grids/demo.yaml").read_text())["axes"]
    two, three = (len(grid["method"]) * len(grid["split"]) * seeds for seeds in (len(grid["seed"]), 3))
    assert f"it trains {two} *cells*" in page.replace("\n", " ")
    assert f"{three} cells: {three - two} submit, {two} keep" in page


def test_a_place_for_what_the_code_does_not_have_is_refused():
    assert from_code.filled("# A\n") == "# A\n"
    with pytest.raises(KeyError, match="nothing"):
        from_code.filled("<!-- from the code: nothing -->")


@pytest.mark.parametrize("grid", ["camvid", "pascal_animals", "lucchi_small"])
def test_cells_of_a_small_grid_take_as_long_in_its_file_as_on_the_page(grid):
    table = (DOCS / "small_data.md").read_text().partition(f"(`{grid}`)")[2].partition("\n\n**")[0]
    seconds = dict(re.findall(r"^\| (\w+) \|.*\| (\d+) \|$", table, re.M))
    took = re.search(
        r"a supervised cell took (\d+) s, a rankmatch one (\d+) s",
        (ROOT / f"experiments/grids/{grid}.yaml").read_text(),
    )
    assert took is not None and took.groups() == (seconds["supervised"], seconds["rankmatch"])


def test_page_does_not_call_a_rate_the_best_that_its_table_does_not():
    """Where the chosen rate is not the supervised method's best, the page says so."""
    page = (DOCS / "small_data.md").read_text().partition("## How the settings were chosen")[2]
    for name, words in (
        ("CamVid", "better at half"),
        ("Lucchi", "method's best"),
        ("PASCAL animals", "better one of two"),
    ):
        cells = next(line for line in page.splitlines() if line.startswith(f"| {name}")).split("|")
        tried = cells[2].partition("rankmatch")[0]
        scores = {rate: float(miou) for miou, rate in re.findall(r"([\d.]+) at (?:a rate of )?([\d.]*\d)", tried)}
        chosen = re.search(r"[\d.]*\d", cells[3])[0]
        is_best = scores[chosen] == max(scores.values())
        line = next(line for line in page.splitlines() if line.startswith(f"- {name}"))
        assert words in line and is_best == (name != "CamVid")
