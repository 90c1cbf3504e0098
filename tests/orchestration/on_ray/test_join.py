"""Nodes that others lend to a Ray, on a file server that is away for a while; the daemon is a shell line."""

import errno
import os
import subprocess
from pathlib import Path

import pytest

from orchestration.on_ray import job
from orchestration.on_ray.protocol import TOKEN_VARIABLE
from orchestration.runs.folders import JobFolder


def test_node_of_a_job_stays_while_the_file_server_is_away_until_the_job_is_over(tmp_path, monkeypatch):
    folder = JobFolder(tmp_path)
    folder.address_file.write_text("n1:6379")
    monkeypatch.setenv(TOKEN_VARIABLE, "t")
    script = f"sleep 1; touch {folder.over_file}; sleep 100"
    lent: list[str] = []

    def lend(address: str, *_: object, **__: object) -> "subprocess.Popen[bytes]":
        lent.append(address)
        return subprocess.Popen(["sh", "-c", script], start_new_session=True)

    monkeypatch.setattr(job, "lend_node", lend)
    exists, seen = Path.exists, list[str]()

    def sometimes(path: Path, **options: bool) -> bool:
        if path.parent == tmp_path and len(seen) < 3:
            seen.append(path.name)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", sometimes)
    job.join(folder, tmp_path, num_cpus=1, num_gpus=0)
    assert lent == ["n1:6379"] and len(seen) == 3 and folder.over_file.exists()


@pytest.mark.parametrize("is_read", [True, False])
def test_node_of_a_pilot_leaves_once_it_was_seen_to_whatever_the_file_server_says_later(is_read, tmp_path, monkeypatch):
    from orchestration.on_ray.pilot import Nodes
    from orchestration.runs.folders import LaunchFolder

    nodes, stop_file = Nodes(tmp_path), LaunchFolder(tmp_path).job_named("2_1.0").stop_file
    monkeypatch.setattr(Nodes, "_alive", lambda _: {"2_1.0": {"NodeID": "a", "Resources": {"CPU": 2.0}}})
    stop_file.parent.mkdir(parents=True)
    stop_file.touch()
    before = nodes.leaving() if is_read else ()

    def away(path: Path, **_: bool) -> bool:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    with monkeypatch.context() as server:
        server.setattr(Path, "exists", away)
        assert nodes.leaving() == before
    assert nodes.leaving() == ("a",)
