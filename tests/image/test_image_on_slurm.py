"""The image is the container of a job on a real Slurm; a stand-in by podman takes the words of Apptainer."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_engine import ROOT, Engine
from slurm.real_cluster import Cluster, Grid, start, wait_until

pytestmark = [pytest.mark.image, pytest.mark.long, pytest.mark.xdist_group("image"), pytest.mark.timeout(900)]


@pytest.fixture
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    yield from start(tmp_path_factory.mktemp("slurm") / "main", "none", ST_NODES="1", ST_GPUS="0")


def test_job_trains_in_the_image_and_its_cell_holds_the_digest(engine, image, cluster, tmp_path):
    (tmp_path / "engine").mkdir()  # nodes have a /tmp of their own, where the engine's folder is not seen
    on_node = Engine(tmp_path / "engine")
    names = ("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF")
    environment = ",".join(f"{name}: {on_node.environment[name]}" for name in names)
    programs = Path(__file__).parent
    digest = engine.inspect(image)["Digest"]
    reference = f"{image.partition(':')[0]}@{digest}"
    began = int(time.time())
    grid = Grid(cluster, tmp_path / "g", **{"trainer.epochs": 2})
    done = grid.launch(
        "cluster.container=apptainer", f"cluster.image={reference}", f"cluster.container_args=[--nv,--bind,{ROOT}]",
        f"cluster.setup=['PATH={programs}:$PATH']", f"cluster.environment={{{environment}}}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    grid.ended()
    result = json.loads((grid.cell.path / "result.json").read_text())
    made = result["provenance"]
    assert (made["image"], f"sha256:{made['image_sha256']}") == (reference, digest)
    assert len(grid.cell.attempts()) == 1
    events = ("podman", "events", "--stream=false", f"--since={began}", "--filter=event=died")
    ended = f"{reference} 0"  # and with which code
    wait_until(lambda: ended in engine.run(*events, "--format={{.Image}} {{.ContainerExitCode}}").splitlines(), 30)
