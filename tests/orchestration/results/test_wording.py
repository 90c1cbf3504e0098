import pytest

from orchestration.results.wording import listed, worded

POINTS = [
    {"method": method, "split": split, "seed": seed}
    for method in ("supervised", "unimatch", "rankmatch")
    for split in ("92", "183")
    for seed in ("0", "1")
]


def values(of):
    return [of(point) for point in POINTS]


@pytest.mark.parametrize(
    ("of", "own", "words"),
    [
        (lambda point: "8", "", "8"),
        (
            lambda point: "8" if point["method"] == "supervised" else "16",
            "",
            "8 (supervised training) or 16 (UniMatch and RankMatch)",
        ),
        (
            lambda point: {"92": "10 steps", "183": "20 steps"}[point["split"]],
            "",
            "10 steps (split 92) or 20 steps (split 183)",
        ),
        (lambda point: point["split"], "split", "92 or 183"),
        (
            lambda point: "3" if (point["method"], point["split"]) == ("rankmatch", "183") else "5",
            "",
            "5 (supervised training and UniMatch; RankMatch with split 92) or 3 (RankMatch with split 183)",
        ),
        (
            lambda point: f"{len(point['method']) * int(point['split']):,} steps",
            "",
            "736 to 1,830 steps, depending on the method and split",
        ),
        (lambda point: "a" if point["seed"] == "0" else "b", "", "a (seed 0) or b (seed 1)"),
    ],
)  # fmt: skip
def test_a_value_is_said_once_or_with_the_rows_that_have_it(of, own, words):
    assert worded(POINTS, values(of), own) == words


def test_runs_that_differ_in_no_axis_have_their_values_listed():
    assert worded([{"seed": "0"}, {"seed": "0"}], ["a", "b"]) == "a or b"


def test_lists_are_english():
    assert [listed(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
