"""What a campaign does by itself about cells that ran out of something; tests/slurm has a real Slurm."""

import json

import pytest
from campaign_life import RESULT, Life
from orchestration_fakes import flags

from orchestration.grids import index
from orchestration.grids.cells import from_yaml
from orchestration.launching import control, overview, step
from orchestration.on_slurm import submissions
from orchestration.runs.run_folder import RunFolder, folders

CELL = "rankmatch-4-s0"
EPOCH = {"step": 0, "time": 1.0, "epoch": 1, "num_epochs": 2, "num_steps": 2, "miou": 0.1, "best_miou": 0.1}


@pytest.fixture
def cell(life) -> RunFolder:
    life.launch(cluster_settings=("cluster.mem_gb_per_worker=16", "cluster.time_min=60"))
    return life.cell(CELL)


def asked(life: Life) -> dict[str, str]:
    return flags([script for script in life.slurm.scripts if "srun" in script][-1])


def retried(life: Life) -> dict[str, str]:
    """Take a controller's step, which submits one cell; return what its job asks for."""
    before = len(life.slurm.scripts)
    assert life.controller() == 0 and len(life.slurm.scripts) == before + 1
    life.slurm.queued |= life.jobs("RUNNING")
    return asked(life)


def note_of(life: Life, cell: RunFolder) -> str:
    return next(row.note for row in overview.of_grid(life.grid_dir).rows if row.cell.folder_name == cell.path.name)


def test_cell_that_ran_out_of_host_memory_gets_half_as_much_again_twice_and_keeps_it(life, cell):
    assert asked(life)["mem"] == "16384MB"
    life.runs_out_of(cell, "out of host memory")
    assert retried(life)["mem"] == "24576MB"
    assert "asks for 24 GB for each worker, after it ran out of host memory" in note_of(life, cell)
    life.runs_out_of(cell, "lost")  # and keeps it, whatever ends it next
    assert retried(life)["mem"] == "24576MB"
    life.runs_out_of(cell, "out of host memory")
    assert retried(life)["mem"] == "36864MB"
    assert not life.said()
    life.runs_out_of(cell, "out of host memory")
    scripts = len(life.slurm.scripts)
    life.controller()
    assert len(life.slurm.scripts) == scripts


def test_attempts_hold_what_their_job_asked_for_and_what_the_site_could_have_given(life, slurm):
    slurm.node_has = "20480|gpu:a100:4"
    slurm.partitions = "PartitionName=main Default=YES MaxTime=03:00:00 QoS=N/A\n"
    life.launch(overrides=(), cluster_settings=("cluster.mem_gb_per_worker=16", "cluster.time_min=60"))
    cell = life.cell(CELL)
    attempt = life.runs_out_of(cell, "out of host memory")
    assert attempt.owner()["asked"] == {
        "workers": 1, "mem_gb_per_worker": 16.0, "time_min": 60, "more_workers": 0, "most_mem_gb_per_worker": 20.0,
        "most_time_min": 180,
    }  # fmt: skip
    assert retried(life)["mem"] == "20480MB"  # not 24 GB, which no node has


def test_cell_whose_memory_no_node_exceeds_is_given_up_with_a_notice_of_what_helps(life, slurm):
    slurm.node_has = "16384|gpu:a100:4"
    life.launch(cluster_settings=("cluster.mem_gb_per_worker=16",))
    cell = life.cell(CELL)
    job = submissions.newest_jobs(life.grid_dir)[cell.path.name]
    cell.claim(life.owner_of(cell)).event("started", step=0)
    slurm.queued.pop(job.number)
    slurm.accounted[job.number] = ("OUT_OF_MEMORY", "n1")
    life.controller()
    (line,) = life.said()
    why = "is not tried again: out of host memory with 16 GB for each worker, and its site gives no more; give it more"
    assert why in line and "cluster.mem_gb_per_worker" in line


def test_cell_that_ran_out_of_gpu_memory_gets_twice_the_gpus_once(life):
    life.launch(overrides=())
    cell = life.cell(CELL)
    assert asked(life)["gpus-per-node"] == "1"
    life.runs_out_of(cell, "out of GPU memory")
    assert retried(life)["gpus-per-node"] == "2"
    assert from_yaml(cell.config()).execution.trainer.num_workers == 2  # what its job trains with
    assert {one.num_gpus for one in index.read(life.grid_dir)} == {1, 2}
    plan = (max((life.grid_dir / "launches").iterdir()) / "plan.txt").read_text()
    assert "asks for 2 GPUs, after it ran out of GPU memory (same batch, same numbers up to rounding)" in plan
    assert "the same would fail again" not in plan
    assert "asks for 2 GPUs" in note_of(life, cell)
    life.runs_out_of(cell, "lost")
    assert retried(life)["gpus-per-node"] == "2"
    life.runs_out_of(cell, "out of GPU memory")
    scripts = len(life.slurm.scripts)
    life.controller()
    assert len(life.slurm.scripts) == scripts
    control.status(life.grid_dir, life.console)
    assert "asks for 2 GPUs" in life.console.export_text()


def test_gpus_are_not_doubled_where_no_node_has_them_or_the_site_says_itself_what_a_job_gets(life, slurm):
    slurm.node_has = "256000|gpu:a100:1"
    life.launch(overrides=(), cluster_settings=("cluster.gpus_per_node=4",))
    cell = life.cell(CELL)
    life.runs_out_of(cell, "out of GPU memory")
    life.controller()
    assert len([script for script in slurm.scripts if "srun" in script]) == 1


def test_cell_that_ends_no_epoch_within_its_time_limit_gets_twice_the_time_up_to_the_partitions(life, slurm):
    slurm.partitions = "PartitionName=main Default=YES MaxTime=03:00:00 QoS=N/A\n"
    life.launch(cluster_settings=("cluster.time_min=60",))
    cell = life.cell(CELL)
    life.runs_out_of(cell, "time limit")
    assert retried(life)["time"] == "120"
    assert "asks for at least 120 min, after no epoch ended within its time limit" in note_of(life, cell)
    life.runs_out_of(cell, "time limit")
    assert retried(life)["time"] == "180"
    life.runs_out_of(cell, "time limit")
    assert retried(life)["time"] == "180"  # two of three without progress could be helped; this one counts


def test_time_is_raised_no_further_than_account_and_qos_allow(life, slurm):
    slurm.max_wall = {"user": "us|us||long\nus|others|00:10:00|short\n", "qos": "01:30:00\n"}
    life.launch(cluster_settings=("cluster.time_min=60",))
    cell = life.cell(CELL)
    assert life.runs_out_of(cell, "time limit").owner()["asked"]["most_time_min"] == 90
    assert retried(life)["time"] == "90"


def test_cell_that_ends_epochs_within_its_time_limit_keeps_it(life, cell):
    attempt = life.runs_out_of(cell, "time limit", step=1)
    attempt.epochs_file.write_text(json.dumps(EPOCH) + "\n")
    assert retried(life)["time"] == "60"
    assert "asks for" not in note_of(life, cell)


def idles(cell: RunFolder, owner: dict, percents: list[float], every_s: float = 300.0) -> None:
    attempt = cell.claim(owner)
    attempt.event("started", step=0)
    rows = [{"time": 1000.0 + every_s * place, "gpu_percent": percent} for place, percent in enumerate(percents)]
    attempt.system_file(0).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_gpu_that_does_nothing_for_20_minutes_is_said_in_status_and_once_by_notice(life):
    life.launch(overrides=())
    cell, other = life.cell(CELL), life.cell("rankmatch-4-s1")
    idles(cell, life.owner_of(cell), [90.0, 3.0, 0.0, 0.0, 4.9, 0.0])
    idles(other, life.owner_of(other), [0.0, 0.0, 0.0, 0.0, 0.0, 5.0])  # it waited, and works again
    for _ in range(2):
        life.controller()
    (line,) = life.said()
    assert line.startswith(f"small: a cell leaves GPUs idle, {cell.path.name} for 20 min; mostly a training waits for")
    assert "its GPU idles, under 5 % for 20 min" in note_of(life, cell)
    assert "idles" not in note_of(life, other)
    lines = overview.of_grid(life.grid_dir).lines
    assert any(text.startswith("where a GPU idles, mostly a training waits for its data") for text in lines)


@pytest.mark.parametrize(
    "percents", [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 50.0, 0.0, 0.0, 0.0], []], ids=["15 min", "worked between", "no row"]
)
def test_gpu_that_idles_for_less_is_not_said(percents, life):
    life.launch(overrides=())
    cell = life.cell(CELL)
    idles(cell, life.owner_of(cell), percents)
    life.controller()
    assert not life.said() and "idles" not in note_of(life, cell)


def trained(cell: RunFolder, owner: dict, memory_gb: list[float], duration_s: float) -> None:
    attempt = cell.claim(owner)
    attempt.event("started", step=0)
    rows = [{"time": 1000.0 + place, "cpu_percent": 90.0, "memory_gb": some} for place, some in enumerate(memory_gb)]
    attempt.system_file(0).write_text("".join(json.dumps(row) + "\n" for row in rows))
    attempt.publish(RESULT | {"duration_s": duration_s, "provenance": {"num_gpus": 0, "commit": "abc"}})


def test_jobs_ask_for_what_finished_cells_of_their_kind_took_and_a_quarter_more_and_so_do_later_steps(life, slurm):
    site = ("cluster.mem_gb_per_worker=16",)
    life.launch(overrides=("trainer.device=cpu", "method=[rankmatch]"), cluster_settings=site)
    done = folders(life.grid_dir).values()
    for cell, memory, duration_s in zip(done, ([2.0, 3.5], [4.1, 1.0]), (3600.0, 7200.0), strict=True):
        trained(cell, life.owner_of(cell), memory, duration_s)
    slurm.queued.clear()
    later = ("trainer.device=cpu", "method=[rankmatch]", "seed=[0,1,2,3]")
    life.launch(overrides=later, size_from_history=True)
    assert (asked(life)["mem"], asked(life)["time"]) == ("6144MB", "180")  # 5.125 GB, and 15 min and 150 min
    said = life.console.export_text()
    assert "sized by history: rankmatch on synthetic, mobilenet_v2" in said
    assert (
        "6 GB for each worker and 4.5e+03 s a step, 1.25 times what 2 finished cells took at most (4.1 GB and" in said
    )
    newest = max((life.grid_dir / "launches").iterdir())
    life.ends(life.cell("s3"), "lost", campaign=newest.name)
    step.take_step(newest, life.console)
    assert (asked(life)["mem"], len(submissions.read(life.grid_dir))) == ("6144MB", 3)


def test_kind_that_no_finished_cell_is_of_is_named(life):
    life.launch(size_from_history=True, cluster_settings=("cluster.mem_gb_per_worker=16",))
    assert asked(life)["mem"] == "16384MB"
    assert "no cell of this kind is finished, so it asks for what its site says" in life.console.export_text()


def test_history_is_refused_where_cells_are_no_jobs_of_their_own(life):
    with pytest.raises(ValueError, match=r"--size-from-history must be given where .* got it with --pilot"):
        life.launch(size_from_history=True, num_nodes=2)
