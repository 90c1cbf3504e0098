import pytest

from orchestration.mirror.mlflow_store import MAX_METRICS, Point, Store, StoreError, _batches, metric_name
from orchestration.mirror.store_uri import is_written_by_jobs, without_password, without_secrets


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////runs/mlflow.db", "sqlite:////runs/mlflow.db"),
        ("http://10.0.0.1:5000", "http://10.0.0.1:5000"),
        ("https://me:s3cret@host:5000/x", "https://me@host:5000/x"),
        ("postgresql://me:s3cret@host/db?sslmode=require", "postgresql://me@host/db?sslmode=require"),
        ("postgresql:///db?host=/tmp&password=s3cret", "postgresql:///db?host=%2Ftmp"),
    ],
)
def test_password_is_taken_out_of_a_uri(uri, shown):
    assert without_password(uri) == shown
    assert without_password(shown) == shown


def test_message_holds_no_secret(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pass-word")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:other@host")
    text = without_secrets("GET http://me:third@host/api failed: pass-word, other")
    assert text == "GET http://me:***@host/api failed: ***, ***"


def test_sqlite_has_one_writer_and_the_others_many():
    answers = {uri: is_written_by_jobs(uri) for uri in ("sqlite:///a.db", "http://host", "postgresql://host/db")}
    assert list(answers.values()) == [False, True, True]


def test_points_of_a_row_travel_together():
    rows = [[Point(f"{row}/{column}", 1.0, 0.0, row) for column in range(400)] for row in range(5)]
    batches = [[metric.key for metric in batch] for batch in _batches(rows)]
    assert [len(batch) for batch in batches] == [800, 800, 400]
    assert max(map(len, batches)) <= MAX_METRICS


def test_name_of_a_class_becomes_one_that_mlflow_takes():
    assert metric_name("class_iou/sky (high), 2") == "class_iou/sky _high__ 2"


def test_dead_server_is_told_within_seconds():
    with pytest.raises(StoreError, match="refused"):
        Store("http://127.0.0.1:9").experiment("a")


def test_database_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="must be sqlite:///FILE, postgresql://, http:// or https://; got 'foo://x'"):
        Store("foo://x")
