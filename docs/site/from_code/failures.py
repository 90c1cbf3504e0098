"""The table of failure classes: what each means, and how it is retried, from the policy itself."""

from from_code.settings import field_texts
from orchestration.runs.failure_class import FailureClass
from orchestration.runs.failures import POLICY, Treatment


def as_markdown() -> str:
    """Return a table with a row for each class of failure."""
    texts = field_texts(FailureClass)
    rows = [f"| `{one.value}` | {texts.get(one.name, '')} | {_retried(POLICY[one])} |" for one in FailureClass]
    return "| class | | retried |\n| --- | --- | --- |\n" + "\n".join(rows)


def _retried(treatment: Treatment) -> str:
    if treatment.enlarged:
        times = "once" if treatment.enlarged == 1 else f"up to {treatment.enlarged} times"
        return f"on Slurm {times} with more of it, where the site gives more; else when you ask for it"
    if treatment.retries == 0:
        return "when you ask for it" if not treatment.by_launch else "by the next launch"
    words = ["as long as there is progress" if treatment.retries is None else _times(treatment.retries)]
    words += [f"{treatment.in_all} times in all"] if treatment.in_all else []
    words += [f"after {treatment.wait_min} min or more"] if treatment.wait_min else []
    words += ["on another node"] if treatment.excludes_node else []
    return ", ".join(words)


def _times(number: int) -> str:
    return f"up to {number} times without progress in between"
