from orchestration.tables.search_table import Importance, Point, comparable, importance_note, ranked, rows, to_markdown


def point(name: str, status: str, *mious: float | None) -> Point:
    return Point(f"{name}-k_{name}", {"k": name}, status, mious, signature=name)


POINTS = [
    point("a", "outperformed", 0.5, 0.7),
    point("b", "done", 0.2, 0.3, 0.4),
    point("c", "failed"),
    point("d", "done", 0.1, 0.6, 0.5),
    point("e", "outperformed", 0.9),
    point("f", "interrupted", 0.8, 0.8),
]


def test_points_trained_to_the_end_come_first_then_those_that_came_furthest():
    assert [one.cell[0] for one in ranked(POINTS)] == ["d", "b", "a", "e", "f", "c"]


def test_table_names_setting_figure_epochs_and_cell():
    assert rows(POINTS, 3)[:4] == [
        ["place", "k", "mIoU, %", "epochs", "", "cell"],
        ["1", "d", "50.0", "3 of 3", "done", "d"],
        ["2", "b", "40.0", "3 of 3", "done", "b"],
        ["3", "a", "70.0", "2 of 3", "stopped", "a"],
    ]
    assert rows(POINTS, 3)[-1] == ["6", "c", "—", "0 of 3", "failed", "c"]


def test_settings_are_weighed_at_the_last_epoch_that_all_points_reached():
    assert [(one.cell[0], miou) for one, miou in comparable(POINTS)] == [("a", 0.5), ("b", 0.2), ("d", 0.1), ("e", 0.9)]
    assert [miou for _, miou in comparable(POINTS[:2])] == [0.7, 0.3]
    assert comparable([POINTS[2]]) == []


def test_report_says_what_its_figures_are_of():
    text = to_markdown("mine", POINTS, 8, 3, "Of the held-out part.", Importance(1, 4, {"k": 0.25, "w": 0.75}))
    assert text.startswith(
        "# mine\n\n6 of 8 points: 2 stopped, 2 done, 1 failed, 1 interrupted.\n\nOf the held-out part.\n"
    )
    assert "| 1 | d | 50.0 | 3 of 3 | done | d |" in text
    assert text.endswith("| setting | share, % |\n| --- | --- |\n| w | 75 |\n| k | 25 |\n")
    assert "after epoch 1 (which all 4 points reached)" in text
    assert importance_note(Importance(1, 1, {})) == "Importance: at least two points with different mIoU are needed."
