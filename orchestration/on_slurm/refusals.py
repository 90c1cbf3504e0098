"""Why sbatch refused: temporary reasons, which do not depend on the request, and permanent ones; pure."""

import re

_PASSES = re.compile(
    "did not answer|is not here|timed out|temporarily|unable to contact|connect|socket|communication|zero bytes|"
    "submit limit|job count|standby|shutting down|reconfigur|exit code (?:-|130|137|143)|"
    "it gives no reason|message (?:send|receive)|(?:insane|unexpected) message|protocol|broken pipe|killed",
    re.IGNORECASE,
)
_LIMIT = re.compile(r"\b(?:QOS|Assoc|Job|Max|Grp)\w*?(?:Limit|PerJob\w*)\b")


def passes(reason: str) -> bool:
    """Return whether the same request may be accepted later.

    sbatch has one message for too many jobs and for a job that asks for too much; the limit's name comes before it.
    """
    named = _LIMIT.findall(reason)
    return bool(_PASSES.search(reason)) and all("submit" in limit.lower() for limit in named)
