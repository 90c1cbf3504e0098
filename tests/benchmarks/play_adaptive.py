"""Play grids whose seeds are added adaptively: GPU-hours, wrong conclusions, agreement with all seeds.

`python tests/benchmarks/play_adaptive.py --grids 1000` prints the figures of docs/results.md. The numbers of each grid
are drawn, its seeds are added by the rule of `orchestration.tables.looks`, and its table is compared with that of all.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from orchestration.tables import comparisons, estimates, looks
from orchestration.tables.layouts import Layout
from orchestration.tables.table import Place, build

BASELINE = {"method": "supervised"}
HOURS = {"supervised": 68.0, "unimatch": 168.0, "rankmatch": 153.0, "fixmatch": 150.0}
"""What a cell of CamVid takes, docs/small_data.md, in seconds; only their ratios count."""
STORED = {
    "camvid": {
        "supervised": [29.6, 33.3, 32.3, 32.4, 31.7],
        "unimatch": [32.8, 33.6, 32.0, 32.9, 31.2],
        "rankmatch": [37.9, 31.4, 30.4, 36.3, 32.4],
    },
    "pascal_animals": {
        "supervised": [28.3, 25.7, 22.1],
        "unimatch": [29.1, 29.9, 24.6],
        "rankmatch": [29.5, 28.6, 24.3],
    },
    "lucchi_small": {
        "supervised": [74.5, 73.2, 75.0, 75.9],
        "unimatch": [72.6, 73.5, 68.8, 69.2],
        "rankmatch": [70.0, 70.6, 73.6, 71.6],
    },
}
"""The best epoch of each seed, docs/small_data.md."""
SPLITS = ("92", "183", "366", "732", "1464")
PUBLISHED = {
    "supervised": [44.0, 52.3, 61.7, 66.7, 72.9],
    "fixmatch": [60.1, 67.3, 71.4, 73.7, 76.9],
    "unimatch": [67.4, 71.9, 75.3, 78.0, 79.3],
    "rankmatch": [71.6, 74.6, 76.7, 78.8, 80.0],
}
"""Table 1 with ResNet-50; it is of one run each, so the spread of seeds is ours."""
SPREAD = 1.0


@dataclass(frozen=True, slots=True)
class Play:
    """A kind of grid: the true means of its entries in points, and how the seeds of each column vary together."""

    name: str
    means: Mapping[str, Sequence[float]]
    """By method, for each column."""
    covariances: Sequence[np.ndarray]
    """Of the methods, for each column."""
    first: int
    most: int
    jump: float = 0.0
    """By how many points a cell that is not of the baseline ends above or below its mean, half of them each."""

    def draw(self, generator: np.random.Generator) -> list[dict[str, Any]]:
        """Draw the records of a grid with all seeds."""
        columns = [
            generator.multivariate_normal([self.means[method][column] for method in self.means], covariance, self.most)
            for column, covariance in enumerate(self.covariances)
        ]
        if self.jump:
            for drawn in columns:
                drawn[:, 1:] += self.jump * generator.choice([-1, 1], drawn[:, 1:].shape)
        return [
            {"method": method, "split": str(column), "seed": str(seed), "signature": f"{method}-{column}-{seed}",
             "status": "done", "best_miou": (value := float(drawn[seed, row]) / 100), "last_miou": value}
            for column, drawn in enumerate(columns)
            for row, method in enumerate(self.means)
            for seed in range(self.most)
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Played:
    """What came of one grid."""

    hours_share: float
    """The GPU-hours, as a share of those of all seeds."""
    is_wrong: bool
    """Whether a difference is significant that is none, or in the wrong direction."""
    is_wrong_with_all: bool
    num_found: int
    """How many true differences are significant."""
    num_found_with_all: int
    num_agree: int
    """How many pairs end as with all seeds."""
    num_true: int
    num_pairs: int


def plays(first: int, most: int) -> list[Play]:
    """Return the kinds of grids that are played."""
    methods = ("supervised", "unimatch", "rankmatch")
    same = np.eye(len(methods)) * SPREAD**2
    made = [
        Play("no difference, 2 comparisons", dict.fromkeys(methods, [50.0]), [same], first, most),
        Play("no difference, 10 comparisons", dict.fromkeys(methods, [50.0] * 5), [same] * 5, first, most),
        Play(
            "no difference, two ends, 2 comparisons",
            dict.fromkeys(methods, [50.0]),
            [same],
            first,
            most,
            jump=3 * SPREAD,
        ),
    ]
    for name, found in STORED.items():
        drawn = np.array([*found.values()])
        means = {method: [float(np.mean(values))] for method, values in found.items()}
        made.append(Play(f"as stored: {name}", means, [np.cov(drawn)], first, most))
    of_table = [np.eye(len(PUBLISHED)) * SPREAD**2] * len(SPLITS)
    made.append(Play("as published: Table 1, 15 comparisons", PUBLISHED, of_table, first, most))
    near = {method: [mean - rise for mean in (50.0, 50.0)] for method, rise in
            (("supervised", 0.0), ("unimatch", -1.0), ("rankmatch", -3.0))}  # fmt: skip
    made.append(Play("gains of 1 and 3 spreads, 4 comparisons", near, [same] * 2, first, most))
    return made


def conclusions(records: Sequence[Mapping[str, Any]], layout: Layout) -> dict[Place, int]:
    """Return what a table says of each pair: 1 above its baseline, -1 below it, 0 not significant."""
    entries = build(records, layout, baseline=BASELINE).entries
    return {
        place: (1 if made.effect > 0 else -1) if made.is_significant else 0
        for place, entry in entries.items()
        if (made := entry.comparison) is not None
    }


def played(play: Play, generator: np.random.Generator) -> Played:
    """Draw a grid, add its seeds adaptively, and compare its table with that of all seeds."""
    records = play.draw(generator)
    layout, plain = (Layout(["method"], ["split"], ["seed"], adaptive=first) for first in (play.first, 0))
    trained = train(records, layout)
    seen = [record if record["signature"] in trained else record | {"best_miou": None} for record in records]
    ours, others = conclusions(seen, layout), conclusions(records, plain)
    truth = {
        ((method,), (str(column),)): int(np.sign(round(means[column] - play.means["supervised"][column], 9)))
        for method, means in play.means.items()
        if method != "supervised"
        for column in range(len(play.covariances))
    }
    hours = {record["signature"]: HOURS[record["method"]] for record in records}
    return Played(
        hours_share=sum(hours[cell] for cell in trained) / sum(hours.values()),
        is_wrong=any(said and said != truth[place] for place, said in ours.items()),
        is_wrong_with_all=any(said and said != truth[place] for place, said in others.items()),
        num_found=sum(bool(said) and said == truth[place] for place, said in ours.items()),
        num_found_with_all=sum(bool(said) and said == truth[place] for place, said in others.items()),
        num_agree=sum(ours.get(place, 0) == others.get(place, 0) for place in truth),
        num_true=sum(map(bool, truth.values())),
        num_pairs=len(truth),
    )


def train(records: Sequence[Mapping[str, Any]], layout: Layout) -> set[str]:
    """Return the cells that a launch trains, round by round, seeing only numbers of cells that it has trained."""
    trained = set[str]()
    while True:
        seen = [one if one["signature"] in trained else {**one, "best_miou": None} for one in records]
        entries, pairs = looks.of_records(seen, layout, BASELINE)
        seeds, counts = looks.seeds_of(entries.values(), layout), looks.num_seeds(entries, pairs, layout)
        asked = {cell for place, entry in entries.items() for cell in looks.needed(entry, counts[place], seeds, layout)}
        if asked <= trained:
            return trained
        trained |= asked


def line(play: Play, found: Sequence[Played]) -> str:
    """Return a row of the table of docs/results.md."""
    num_true, num_pairs = sum(one.num_true for one in found), sum(one.num_pairs for one in found)
    wrong, wrong_all = (
        100 * np.mean([getattr(one, name) for one in found]) for name in ("is_wrong", "is_wrong_with_all")
    )
    hits, hits_all = (sum(getattr(one, name) for one in found) for name in ("num_found", "num_found_with_all"))
    right = [f"{100 * hits / num_true:.0f} %", f"{100 * hits_all / num_true:.0f} %"] if num_true else ["", ""]
    saved = 100 * (1 - np.mean([one.hours_share for one in found]))
    cells = [play.name, f"{play.first} to {play.most}", f"{saved:.0f} %", f"{wrong:.1f} %", f"{wrong_all:.1f} %",
             *right,
             f"{100 * sum(one.num_agree for one in found) / num_pairs:.1f} %"]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a row for each kind of grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grids", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="*", default=[5, 8])
    parser.add_argument("--first", type=int, default=3)
    parser.add_argument("--kinds", default="", help="only kinds with these words in their names")
    asked = parser.parse_args()
    for module in (comparisons, estimates):  # exact sums take most of the time, and decide nothing here
        module.stdev = lambda values: float(np.std(values, ddof=1))
    for most in asked.seeds:
        for play in plays(asked.first, most):
            if asked.kinds not in play.name:
                continue
            generator = np.random.default_rng(0)
            print(line(play, [played(play, generator) for _ in range(asked.grids)]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
