"""What comes over many cells at once does not count against them, for a while."""

from orchestration.runs.failures import AttemptEnd, FailureClass, Fault, decide
from orchestration.runs.outages import excused, outages

FS = FailureClass.FILE_SYSTEM


def end(minute: float, node: str, kind: FailureClass = FS) -> AttemptEnd:
    return AttemptEnd(kind, 0, 0, node, time=60 * minute)


def faults(*cells: list[AttemptEnd]) -> list[list[str]]:
    found = excused({f"c{number}": ends for number, ends in enumerate(cells)})
    return [[str(end.fault) for end in ends] for ends in found.values()]


def test_three_cells_within_ten_minutes_are_an_outage_and_two_or_slower_ones_are_not():
    assert faults([end(0, "a")], [end(5, "b")], [end(10, "c")]) == [["site"]] * 3
    assert faults([end(0, "a")], [end(5, "b")], [end(11, "c")]) == [[""]] * 3
    assert faults([end(0, "a"), end(1, "c"), end(2, "d")], [end(2, "b")]) == [["", "", ""], [""]]


def test_outage_holds_all_that_lies_within_its_time_and_is_told_in_a_line():
    cells = {f"c{number}": [end(4 * number, f"n{number % 2}")] for number in range(6)} | {"late": [end(60, "n9")]}
    (outage,) = outages(cells)
    assert outage.cells == [f"c{number}" for number in range(6)]
    assert str(outage) == "file system ended 6 cells on 2 nodes within 20 min"


def test_what_ends_the_cells_of_one_node_is_the_nodes_fault():
    assert faults(*[[end(0, "a", FailureClass.LOST)]] * 3) == [["node"]] * 3
    (outage,) = outages({name: [end(0, "a", FailureClass.LOST)] for name in "xyz"})
    assert str(outage) == "lost ended 3 cells on node a within 1 min"


def test_faults_of_code_and_data_are_the_cells_own_however_many_have_them():
    for kind in (FailureClass.CODE, FailureClass.BAD_DATA, FailureClass.HOST_MEMORY, FailureClass.NON_FINITE_LOSS):
        assert faults([end(0, "a", kind)], [end(0, "b", kind)], [end(0, "c", kind)]) == [[""]] * 3


def hours_away(kind: FailureClass, times: int) -> list[AttemptEnd]:
    """One of three cells that try again and again while something is away."""
    tries = [[end(100 * number, f"n{cell}", kind) for number in range(times)] for cell in range(3)]
    return excused({str(cell): ends for cell, ends in enumerate(tries)})["0"]


def test_outage_ends_no_cell_for_good_waits_longer_each_time_and_is_bounded():
    assert decide(hours_away(FailureClass.DISK_FULL, 1)).wait_min == 2
    assert [decide(hours_away(FailureClass.DISK_FULL, times)).wait_min for times in (1, 2, 3, 8)] == [2, 4, 8, 60]
    assert decide(hours_away(FailureClass.DISK_FULL, 9)).why == "disk full"
    assert decide(hours_away(FailureClass.LOST, 10)).again
    assert decide(hours_away(FailureClass.LOST, 11)).why == "no progress in 3 attempts, last: lost"
    assert decide(hours_away(FS, 14)).again and not decide(hours_away(FS, 15)).again


def test_minute_without_a_file_server_ends_no_cell_for_good():
    grid = {f"c{number}": [end(0.02 * number, f"n{number % 7}")] for number in range(50)}
    decisions = [decide(ends) for ends in excused(grid).values()]
    assert {(decision.again, decision.wait_min) for decision in decisions} == {(True, 2)}
    assert all(decide(ends).again for ends in grid.values())  # alone, too
    assert {end.fault for ends in excused(grid).values() for end in ends} == {Fault.SITE}
