"""The shell around a site's own lines and the command they prepare: whatever these do, the lines after it run.

`set -e`, `set -u`, an `exit` or a trap in a site's setup would else end the batch script with the training, and nobody
would requeue the job or call a controller.
"""

import subprocess
from collections.abc import Sequence

_PLAIN = "set +eu; set +o pipefail"
_KEEP = '{ export -p >&"${rm_kept:-}"; } 2> /dev/null'


def before(setup: Sequence[str]) -> list[str]:
    """Return the lines before a command: the setup, in a shell of its own whose end is not the script's end."""
    return [
        _PLAIN,
        # a file without a name, which nobody has to remove: it keeps what the setup exports, as a PATH with scontrol
        'rm_file=$(mktemp) && exec {rm_kept}<> "$rm_file" && rm -f "$rm_file"',
        "(",
        f"trap '{_KEEP}' EXIT",  # for a setup that fails halfway
        *setup,
        "",  # if the last line of the setup ends with a backslash
        f"{_KEEP} || :",
        f"{_PLAIN}; trap - ERR DEBUG RETURN",  # a trap on EXIT runs, but its exit code does not count
    ]


def after() -> list[str]:
    """Return the lines after the command; `$?` is then its exit code, or that with which the setup ended."""
    return [
        "rm_code=$?",
        '{ echo "rm_code=$rm_code" >&"${rm_kept:-}"; } 2> /dev/null',
        "exit $rm_code",
        ")",
        "rm_code=$?",
        'if [ -n "${rm_kept:-}" ]; then . "/proc/self/fd/$rm_kept" 2> /dev/null; fi',
        "(exit $rm_code)",
    ]


def refuse(setup: Sequence[str]) -> None:
    """Refuse lines that are no complete commands: they would swallow the lines after them.

    Raises:
        ValueError: With what bash says.
    """
    text = "\n".join(setup)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False, timeout=30)
    if said := done.stderr.strip():
        raise ValueError(f"cluster.setup must be whole shell commands; bash says {said!r}; got {text!r}")
