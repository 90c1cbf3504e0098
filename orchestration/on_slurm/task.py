"""How a job takes its task: as submitit's own program does, but only from a file that nobody else can have written."""

import pickle
from pathlib import Path
from typing import Any

from submitit.core.submission import submitit_main
from submitit.core.utils import DelayedSubmission

from orchestration.machine import own_files


def main() -> None:
    """Run the task of this job."""
    DelayedSubmission.load = staticmethod(load)  # type: ignore[method-assign,assignment]  # it unpickles what lies there
    submitit_main()


def load(path: str | Path) -> Any:  # noqa: ANN401 (as submitit has it)
    """Unpickle a task.

    Raises:
        PermissionError: Another user can have written it.
    """
    return pickle.loads(own_files.read(Path(path)))
