"""What control groups of both versions say of memory."""

import pytest

from orchestration.machine.control_group import memory_is_watched, memory_limit, num_oom_kills


@pytest.mark.parametrize(
    ("group", "file", "text"),
    [
        ("0::/slurm/job_7", "slurm/job_7/memory.events", "low 0\noom 3\noom_kill 2\n"),
        ("9:cpu:/x\n8:memory:/slurm/job_7", "memory/slurm/job_7/memory.oom_control", "under_oom 0\noom_kill 2\n"),
        ("0::/elsewhere", "slurm/memory.events", ""),
    ],
)
def test_kernels_kills_for_memory_are_counted(group, file, text, tmp_path):
    (tmp_path / "cgroup").write_text(group + "\n")
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert num_oom_kills(tmp_path / "cgroup", tmp_path) == (2 if text else 0)


@pytest.mark.parametrize(
    ("group", "file", "text", "expected"),
    [
        ("0::/slurm/job_7/step_0", "slurm/job_7/memory.max", "1048576\n", True),
        ("0::/slurm/job_7/step_0", "slurm/job_7/memory.max", "max\n", False),
        ("8:memory:/docker/x", "memory/memory.stat", "cache 0\nhierarchical_memory_limit 1048576\n", True),
        ("8:memory:/x", "memory/x/memory.stat", "hierarchical_memory_limit 9223372036854771712\n", False),
    ],
)
def test_memory_is_watched_where_a_group_allows_less_than_the_machine_has(
    group, file, text, expected, tmp_path, monkeypatch
):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    (tmp_path / "cgroup").write_text(group + "\n")
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert memory_is_watched(tmp_path / "cgroup", tmp_path) == expected
    assert (memory_limit(tmp_path / "cgroup", tmp_path) == 1048576) == expected


def test_slurm_watches_the_memory_of_its_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert memory_is_watched(tmp_path / "none", tmp_path)
