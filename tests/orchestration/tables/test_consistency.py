from orchestration.tables.consistency import Odd, odd_ones


def record(method: str, split: str, **fields: object) -> dict[str, object]:
    known = {"code": "old", "data_fingerprint": "d", "split_sha256": split, "dataset": "pascal", "best_miou": 0.5}
    return {"method": method, "split": split, **known, **fields}


def test_the_run_that_differs_from_most_of_its_row_is_found() -> None:
    records = [record("a", "4"), record("a", "8"), record("a", "4", code="new"), record("b", "4", code="new")]
    assert odd_ones(records, ["method"]) == [Odd(2, "code", "new", "old")]


def test_lists_and_data_are_compared_within_a_split_of_a_data_set() -> None:
    records = [record("a", "4"), record("a", "4"), record("a", "4", split_sha256="x"), record("a", "8")]
    records.append(record("a", "8", dataset="camvid", data_fingerprint="e", split_sha256="y"))
    records.append(record("a", "16", data_fingerprint="f"))  # other images of it have labels
    assert odd_ones(records, ["method"]) == [Odd(2, "lists", "x", "4")]
    others = [record("a", "4", data_fingerprint="f"), *records]
    assert [odd.what for odd in odd_ones(others, ["method"]) if odd.place == 0] == ["data"]


def test_where_none_is_the_most_frequent_all_are_odd() -> None:
    records = [record("a", "4", data_fingerprint="d"), record("a", "4", data_fingerprint="e")]
    assert odd_ones(records, ["method"]) == [Odd(0, "data", "d", ""), Odd(1, "data", "e", "")]


def test_unfinished_runs_and_unknown_fields_are_not_judged() -> None:
    records = [record("a", "4"), record("a", "4", code="new", best_miou=None), record("a", "4", code="")]
    assert odd_ones(records, ["method"]) == []
