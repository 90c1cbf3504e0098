"""What every Python of a load test has on its way: cells are trained by a stand-in; programs note what they took."""

import atexit
import importlib.machinery
import importlib.util
import json
import os
import resource
import sys
import time
from pathlib import Path

LOG_VARIABLE = "LOAD_PROGRAMS"
"""The folder in which programs note what they took."""
JOB, LOOP = "orchestration.on_ray.job", "rankmatch.trainer"
TESTS = Path(__file__).parents[2]
BEGAN = time.monotonic()


class _Finder:
    """Has the module by which jobs train be the stand-in, and gives the training loop a network of a few numbers."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == JOB:
            return importlib.util.spec_from_file_location(name, TESTS / "load" / "stand_in_job.py")
        if name != LOOP:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        found.loader = _Loop(name, found.origin)
        return found


class _Loop(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        import disk_programs

        disk_programs.stand_in()


def peak_mb(pid="self"):
    """Return the most memory that a process ever had, as the kernel counts it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def note():
    """Write down what this program took, itself and what it started."""
    own, begun = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    row = {
        "words": sys.orig_argv[1:],
        "peak_mb": round(peak_mb()),
        "cpu_s": round(own.ru_utime + own.ru_stime, 2),
        "begun_cpu_s": round(begun.ru_utime + begun.ru_stime, 2),
        "wall_s": round(time.monotonic() - BEGAN, 2),
    }
    name = f"{os.environ.get('SLURM_JOB_ID', 'here')}-{os.getpid()}-{time.time_ns()}.json"
    (Path(os.environ[LOG_VARIABLE]) / name).write_text(json.dumps(row))


sys.path.append(str(TESTS))
sys.meta_path.insert(0, _Finder)
if LOG_VARIABLE in os.environ and any("orchestration" in word for word in sys.orig_argv):
    atexit.register(note)
