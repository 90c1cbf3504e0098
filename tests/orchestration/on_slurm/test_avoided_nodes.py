"""Which nodes cells keep away from, by a record of attempts: without a Slurm."""

import pytest

from orchestration.on_slurm import commands, site_nodes
from orchestration.on_slurm.avoided_nodes import Try, record
from orchestration.on_slurm.resources import Resources
from orchestration.on_slurm.site_nodes import Node, names_of, of_partition, usable

NOW, HOUR = 1e9, 3600.0
ALL = {"n1", "n2", "n3", "n4"}


def tries(*words: str, ago_s: float = HOUR) -> list[Try]:
    """Read attempts `a@n1!`: cell a on node n1, where it failed."""
    return [
        Try(word[0], word[2:4], NOW - ago_s - number, failed=word.endswith("!")) for number, word in enumerate(words)
    ]


@pytest.mark.parametrize(
    ("words", "own", "others"),
    [
        ("", (), ()),
        ("a@n1! b@n2", ("n1",), ()),  # one cell's failure is its own matter
        ("a@n1! a@n1! b@n2", ("n1",), ()),
        ("a@n1! b@n1! c@n2", ("n1",), ("n1",)),  # two different cells', while another went well elsewhere
        ("a@n1! b@n1!", ("n1",), ()),  # nobody was elsewhere
        ("a@n1! b@n1! c@n2! d@n3! e@n4", ("n1",), ()),  # elsewhere more failed than not
        ("a@n1! b@n1! c@n2 c@n3! d@n3 e@n4", ("n1",), ("n1",)),
        ("a@n1! b@n1! a@n2! b@n2! c@n3 d@n3 e@n3", ("n1", "n2"), ("n1", "n2")),
        ("a@n1! b@n1! c@n1", ("n1",), ()),  # c went well, but not elsewhere
    ],
)
def test_node_is_avoided_by_the_cell_that_failed_there_and_by_all_once_others_did_and_elsewhere_did_not(
    words, own, others
):
    known = record(tries(*words.split()), NOW)
    assert known.avoided("a", ALL) == own
    assert known.avoided("z", ALL) == others


def test_what_failed_is_forgotten_after_a_day():
    old = tries("a@n1!", ago_s=25 * HOUR)
    assert record(old, NOW).avoided("a", ALL) == ()
    assert record([*old, *tries("a@n2!")], NOW).avoided("a", ALL) == ("n2",)


def test_something_is_always_left_for_a_cell_and_what_failed_first_is_tried_again_first():
    known = record(tries("a@n3!", "a@n2!", "a@n1!"), NOW)
    assert known.avoided("a", ALL) == ("n1", "n2", "n3")
    assert known.avoided("a", {"n1", "n2", "n3"}) == ("n2", "n3")
    assert known.avoided("a", ALL, needed=2) == ("n2", "n3")
    assert known.avoided("a", {"n3"}) == known.avoided("a", {"n2", "n3"}, needed=4) == ()


def test_node_that_is_gone_is_not_named_as_sbatch_would_refuse_it():
    assert record(tries("a@n9!", "a@n1!"), NOW).avoided("a", ALL) == ("n1",)


def test_where_nobody_knows_the_nodes_at_most_half_of_those_seen_are_avoided():
    known = record(tries("a@n3!", "a@n2!", "a@n1!", "b@n4"), NOW)
    assert known.avoided("a", None) == ("n2", "n3")
    assert record(tries("a@n1!"), NOW).avoided("a", None) == ()
    assert known.avoided("a", None, needed=3) == ("n3",) and known.avoided("a", None, needed=4) == ()
    assert known.avoided("a", None, up={"n1", "n3", "n9"}) == ("n3",)  # newest first, half of those that are up


def test_evidence_names_cells_with_their_last_failure_and_how_many_went_well_elsewhere():
    known = record(
        [
            Try("b", "n2", NOW - 300, failed=True, kind="lost"),
            Try("a", "n2", NOW - 200, failed=True, kind="GPU fault"),
            Try("b", "n2", NOW - 100, failed=True, kind="hung"),
            *(Try(cell, "n1", NOW - 100, failed=True, kind="hung") for cell in "cd"),
            *(Try(cell, "n3", NOW - 50, failed=False) for cell in "efghi"),
        ],
        NOW,
    )
    assert known.evidence() == [
        f"all cells avoid node {node} for a day, if there is another: {failed} failed there, "
        "5 cells did not fail on other nodes"
        for node, failed in (("n1", "c (hung), d (hung)"), ("n2", "a (GPU fault), b (hung)"))
    ]
    alone = record([*tries("a@n1!", "b@n1!", "c@n2")], NOW)
    assert alone.evidence()[0].endswith("failed there, 1 cell did not fail on other nodes")
    assert record([], NOW).evidence() == []


SINFO = """\
n1|64|256000|gpu:a100:4(S:0-1)|avx512,ib|idle|main*
n1|64|256000|gpu:a100:4(S:0-1)|avx512,ib|idle|low
n2|64|256000+|gpu:a100:2,gpu:v100:2|avx512|mixed-|main*
n3|32|128000|(null)|(null)|allocated|main*
n4|64|256000|gpu:4|avx512|down*|main*
n5|64|256000|gpu:4|avx512|drained|main*
n6|64|256000|gpu:a100:4|avx512|idle~|main*
n7|64|256000|gpu:a100:4|avx512|idle|low
"""
ASKED = Resources(nodes=1, cpus_per_node=4, gpus_per_node=1, mem_gb_per_node=16, time_min=60)


@pytest.mark.parametrize(
    ("asked", "options", "expected"),
    [
        ({}, {}, ["n1", "n2", "n6"]),
        ({"gpus_per_node": 0}, {}, ["n1", "n2", "n3", "n6"]),
        ({"gpus_per_node": 3}, {"gpu_type": "a100"}, ["n1", "n6"]),
        ({"gpus_per_node": 4}, {}, ["n1", "n2", "n6"]),
        ({"cpus_per_node": 65}, {}, []),
        ({"mem_gb_per_node": 200, "gpus_per_node": 0}, {}, ["n1", "n2", "n6"]),
        ({}, {"constraint": "ib"}, ["n1"]),
        ({}, {"constraint": "ib|avx512"}, ["n1", "n2", "n6"]),
        ({}, {"constraint": "ib|no-such"}, ["n1"]),
        ({}, {"constraint": "ib&avx512"}, ["n1"]),
        ({}, {"constraint": "no-such"}, []),
        ({}, {"constraint": "[ib*1&no-such*1]"}, ["n1", "n2", "n6"]),  # is not looked at
        ({}, {"excluded": ["n1"]}, ["n2", "n6"]),
    ],
)
def test_nodes_that_could_hold_a_cell_are_those_that_are_up_and_large_enough(asked, options, expected, monkeypatch):
    monkeypatch.setattr(commands, "output", lambda command: SINFO)
    needs = Resources(**{**{name: getattr(ASKED, name) for name in Resources.__slots__}, **asked})
    given = {"gpu_type": "", "constraint": "", "excluded": (), **options}
    assert usable(of_partition(""), needs, **given) == expected


def test_partition_is_asked_for_by_name_and_the_default_one_is_told_by_its_star(monkeypatch):
    asked: list[list[str]] = []
    monkeypatch.setattr(commands, "output", lambda command: asked.append(command) or SINFO)
    assert {node.name for node in of_partition("low,main")} == {f"n{number}" for number in range(1, 8)}
    assert "n7" not in {node.name for node in of_partition("")}
    assert ["--partition=low,main" in command for command in asked] == [True, False]


def test_names_of_excluded_nodes_are_spelt_out(monkeypatch):
    monkeypatch.setattr(site_nodes.commands, "output", lambda command: f"{command[-1]}\nn3\n")
    assert names_of("") == []
    assert names_of("n1,n7") == ["n1", "n7"]
    assert names_of("n[2-3]") == ["n[2-3]", "n3"]
    assert Node("n", 1, 1, "(null)").num_gpus() == 0
