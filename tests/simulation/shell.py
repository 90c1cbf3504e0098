"""The shell of a job: a real bash runs the real batch script, and whatever it would start, the simulation does.

Bash asks through a pipe and waits for the answer, so that it too runs only while no other process does.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

Answer = Callable[[Sequence[str]], tuple[int, str]]
PROGRAMS = ("squeue", "sacct", "scontrol", "sbatch", "scancel", "srun", "sleep", "timeout", "rm_sim_python", "rm")
PYTHON = "rm_sim_python"
_FUNCTIONS = """
rm_sim_ask() {
  printf '%s\\0' "$#" "$@" >&"$RM_SIM_ASKS"
  local code size text=
  IFS=' ' read -r -u "$RM_SIM_ANSWERS" code size || exit 137
  if [ "$size" -gt 0 ]; then IFS= read -r -N "$size" -u "$RM_SIM_ANSWERS" text || exit 137; fi
  printf '%s' "$text"
  return "$code"
}
"""
_TOOLS = r"""
cat() { local text; [ -r "$1" ] || return 1; IFS= read -r -d '' text < "$1"; printf '%s' "$text"; }
touch() { : >> "$1"; }
mktemp() { local path="$TMPDIR/rm_sim.$BASHPID.$RANDOM"; : > "$path" && echo "$path"; }
od() { printf ' %064d\n' "$BASHPID"; }
tr() { local text; IFS= read -r -d '' text; printf '%s' "${text//[ $'\n']/}"; }
wc() { local lines; mapfile -t lines; echo "${#lines[@]}"; }
tail() { local lines; mapfile -t lines; [ "${#lines[@]}" -eq 0 ] || echo "${lines[-1]}"; }
sort() {
  local lines sorted=() place; mapfile -t lines
  for line in "${lines[@]}"; do
    place=${#sorted[@]}
    while [ "$place" -gt 0 ] && [ "${sorted[place - 1]}" -gt "$line" ]; do
      sorted[place]=${sorted[place - 1]}; place=$((place - 1))
    done
    sorted[place]=$line
  done
  [ "${#sorted[@]}" -eq 0 ] || printf '%s\n' "${sorted[@]}"
}
grep() {
  local line count=0 found=1
  while IFS= read -r line || [ -n "$line" ]; do
    case $1 in
      -c) [ -z "$line" ] || count=$((count + 1)); continue ;;
      -E) [[ $line =~ $2 ]] || continue ;;
      --fixed-strings) [[ $line == *"$2"* ]] || continue ;;
    esac
    found=0; printf '%s\n' "$line"
  done
  [ "$1" != -c ] || { echo "$count"; [ "$count" -gt 0 ]; return; }
  return "$found"
}
"""
"""What scripts start of coreutils and grep, of which only these uses are known: a process each would take longer than
all else. On a real Slurm they are real."""


def write_functions(path: Path) -> None:
    """Write what bash reads first (BASH_ENV): each program is a question."""
    path.write_text(_FUNCTIONS + _TOOLS + "".join(f'{name}() {{ rm_sim_ask {name} "$@"; }}\n' for name in PROGRAMS))


def run(script: Path, functions: Path, environment: Mapping[str, str], log: Path, answer: Answer) -> int:
    """Run a script to its end; return its exit code."""
    asks, asks_end = os.pipe()
    answers_end, answers = os.pipe()
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    told = {"RM_SIM_ASKS": str(asks_end), "RM_SIM_ANSWERS": str(answers_end), "BASH_ENV": str(functions),
            "TMPDIR": str(functions.parent)}  # fmt: skip
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        bash = subprocess.Popen(
            ["bash", str(script)], env={**kept, **environment, **told, "LC_ALL": "C"}, stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, pass_fds=(asks_end, answers_end), start_new_session=True,
        )  # fmt: skip
    os.close(asks_end)
    os.close(answers_end)
    try:
        while words := _next(asks):
            code, text = answer(words)
            os.write(answers, f"{code % 256} {len(text)}\n{text}".encode())
        return bash.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(bash.pid, signal.SIGKILL)
        bash.wait()
        os.close(asks)
        os.close(answers)


def _next(pipe: int) -> list[str]:
    """Return the next question; none once all that could ask have ended."""
    content = b""
    while not content.endswith(b"\0") or content.count(b"\0") <= int(content.partition(b"\0")[0]):
        more = os.read(pipe, 65536)
        if not more:
            return []
        content += more
    return content.decode().split("\0")[1:-1]
