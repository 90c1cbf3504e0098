"""Why sbatch refused: what passes, as it has nothing to do with what it was asked for, and what does not; pure."""

import re

_PASSES = re.compile(
    "did not answer|is not here|timed out|temporarily|unable to contact|connect|socket|communication|zero bytes|"
    "submit limit|job count|standby|shutting down|reconfigur",
    re.IGNORECASE,
)
_LIMIT = re.compile(r"\b(?:QOS|Assoc|Job|Max|Grp)\w*?(?:Limit|PerJob\w*)\b")


def passes(reason: str) -> bool:
    """Tell whether the same may be taken another time.

    sbatch has one sentence for too many jobs and for a job that asks for too much; before it comes the limit's name.
    """
    named = _LIMIT.findall(reason)
    return bool(_PASSES.search(reason)) and all("submit" in limit.lower() for limit in named)
