import subprocess

import psutil
import pytest

from orchestration.on_ray import cluster

SLOW = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


class Begins:
    """Stands for `ray.init`: leaves a process behind and fails as Ray does, so many times."""

    def __init__(self, num_failures, message=SLOW):
        self.num_failures, self.message, self.left = num_failures, message, []

    def __call__(self, **_):
        if len(self.left) < self.num_failures:
            self.left.append(subprocess.Popen(["sleep", "600"]))
            raise Exception(self.message)  # noqa: TRY002 (as Ray does)


def test_ray_that_came_up_too_slowly_is_begun_again_and_leaves_nothing_half_begun(monkeypatch, tmp_path, capsys):
    begins = Begins(2)
    monkeypatch.setattr(cluster.ray, "init", begins)
    with cluster.private_ray(folder=tmp_path / "ray"):
        assert not any(psutil.pid_exists(process.pid) for process in begins.left)
    for process in begins.left:
        process.wait()
    assert capsys.readouterr().err.count("Ray was not up within 30 s") == 2


@pytest.mark.parametrize(("failures", "message"), [(3, SLOW), (1, "no space left on device")])
def test_what_does_not_pass_is_raised(failures, message, monkeypatch, tmp_path):
    begins = Begins(failures, message)
    monkeypatch.setattr(cluster.ray, "init", begins)
    with pytest.raises(Exception, match=message[:20]), cluster.private_ray(folder=tmp_path / "ray"):
        pass
    assert len(begins.left) == failures
    for process in begins.left:
        process.kill()
        process.wait()
