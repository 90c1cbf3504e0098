"""The shell around a controller, and the lines by which jobs wake one; pure text.

What must hold even where Python does not start stands here: who follows is asked of Slurm before anything else is done.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

NUM_WAITING = 2
"""So many controllers wait in the queue while one is at work: one may die before its first line."""
MAX_FAILURES = 60
LONGEST_S, FIRST_S = 4 * 3600, 120
"""Between two controllers of which the earlier one failed: twice as long each time."""
REPORTED = 3
"""The exit code of a controller that failed and has said so itself."""
MAX_RESTARTS = 60

FAILURES, TOLD, SCRIPT = "failures", "told", "controller.sh"
"""In the folder of controllers: how many in a row have not come to their end, whether one of these could say so, and
what sbatch is given."""
SILENT = 2
"""So many in a row that have not come to their end are told of by others: what ends a job at its time limit ends its
shell too."""


def before(name: str, folder: Path, over: Path, every_s: int, words: Sequence[str] = (), text: str = "") -> list[str]:
    """Return what a controller begins with: it counts itself as failed until it has not, and sees to who follows.

    Args:
        name: Of all controllers of the campaign, and of no other job.
        folder: Theirs.
        over: The file that says that nothing is left to be done.
        every_s: Between two controllers of which the earlier one came to its end.
        words: The site's command that takes a line of text, if it has one.
        text: What is said where those before could say nothing.
    """
    told = _quoted(folder / TOLD)
    return [
        *_functions(name, folder),
        f"if [ -e {_quoted(over)} ]; then rm_slurm scancel --quiet --name={name} --state=PENDING; exit 0; fi",
        f"failures=$(cat {_quoted(folder / FAILURES)} 2> /dev/null); failures=${{failures:-0}}",
        f"echo $((failures + 1)) > {_quoted(folder / FAILURES)}",
        f"delay={every_s}",
        f"if [ $failures -gt 0 ]; then delay=$(({FIRST_S} << (failures < 8 ? failures - 1 : 7))); fi",
        f"if [ $delay -gt {LONGEST_S} ]; then delay={LONGEST_S}; fi",
        f"if [ $failures -lt {MAX_FAILURES} ]; then",
        "  for pause in 0 10 30 60; do sleep $pause; if rm_follow; then break; fi; done",
        "fi",
        f"if [ $failures -eq 0 ]; then rm -f {told}; fi",
        f"if [ $failures -ge {SILENT} ] && [ $failures -lt {MAX_FAILURES} ] && [ ! -e {told} ]; then",
        f"  touch {told}",
        *_tell(words, text),
        "fi",
    ]


def after(name: str, folder: Path, over: Path, words: Sequence[str], text: str) -> list[str]:
    """Return what a controller ends with: where nobody follows it, it goes back into the queue itself.

    Args:
        name: Of all controllers of the campaign.
        folder: Theirs.
        over: The file that says that nothing is left to be done.
        words: The site's command that takes a line of text, if it has one.
        text: What is said where Python could not say what is wrong.
    """
    return [
        "code=$?",
        f"if [ $code -eq 0 ] || [ -e {_quoted(over)} ]; then exit $code; fi",
        f"touch {_quoted(folder / TOLD)}",
        f"is_told=; if [ $code -eq {REPORTED} ]; then is_told=1; fi",
        f"is_last=; if [ $failures -ge {MAX_FAILURES} ]; then is_last=1; fi",
        # Python does not know that it was the last restart
        f'if [ ${{SLURM_RESTART_COUNT:-0}} -ge {MAX_RESTARTS} ] && [ -z "$(rm_waiting)" ]; then is_last=1 is_told=; fi',
        'if [ ! "$is_told" ] && { [ $failures -eq 0 ] || [ "$is_last" ]; }; then',
        *_tell(words, text),
        "fi",
        f"if [ $failures -ge {MAX_FAILURES} ] || [ ${{SLURM_RESTART_COUNT:-0}} -ge {MAX_RESTARTS} ]; then",
        "  exit $code",
        "fi",
        'if waiting=$(rm_waiting) && [ -z "$waiting" ] && ! rm_follow; then',
        # that is no new job, so that no limit on their number keeps it from it
        '  rm_slurm scontrol requeue "$SLURM_JOB_ID" && sleep 60',
        "fi",
        "exit $code",
    ]


def wake(name: str, folder: Path, over: Path) -> list[str]:
    """Return what a job ends with that a controller has to see: the first one that waits begins now, or a new one.

    A controller looks by itself too, some minutes later: where none of this works, nothing is lost but these.
    """
    return [
        *_functions(name, folder),
        f"rm_wake() {{ [ -e {_quoted(over)} ] && return",
        "  local waiting; waiting=$(rm_waiting) || return",
        '  if [ -n "$waiting" ]; then rm_slurm scontrol update JobId="${waiting%%$\'\\n\'*}" StartTime=now',
        '  elif waiting=$(rm_queue) && [ -z "$waiting" ]; then rm_submit now; fi; }',
        'if [ $code -ne 0 ] || { left=$(rm_slurm squeue --noheader --array --me --name="$SLURM_JOB_NAME" --format=%i)',
        '  [ "$(echo "$left" | wc -l)" -le 2 ]; }; then rm_wake; fi 2> /dev/null',
    ]


def _tell(words: Sequence[str], text: str) -> list[str]:
    body = shlex.quote(json.dumps({"text": text}))
    return [
        f"  echo {shlex.quote(text)}",
        *([f"  timeout 60 {shlex.join([*words, text])}"] if words else []),
        '  if [ -n "$RANKMATCH_WEBHOOK" ]; then',
        "    curl --silent --max-time 20 --header 'Content-Type: application/json' "
        f'--data {body} "$RANKMATCH_WEBHOOK" > /dev/null',
        "  fi",
    ]


def _functions(name: str, folder: Path) -> list[str]:
    script = _quoted(folder / SCRIPT)
    return [
        # as tool_environment has it: neither a user's filters nor what describes this job
        "rm_slurm() { (for one in ${!SLURM_@} ${!SBATCH_@} ${!SQUEUE_@} ${!SCANCEL_@} ${!SCONTROL_@}; do",
        '  case $one in SLURM_CONF | SLURM_JWT) ;; *) unset "$one" ;; esac; done; "$@"); }',
        f'rm_queue() {{ rm_slurm squeue --noheader --me --name={name} --format=%A "$@"; }}',
        'rm_waiting() { local found; found=$(rm_queue --states=PENDING) && echo -n "$found" | sort -n; }',
        'rm_submit() { local told; told=$(rm_slurm sbatch --parsable --begin="$1" ${2:+"--dependency=afterany:$2"} \\',
        f'  {script}) && told=$(grep -E \'^[0-9]+(;|$)\' <<< "$told" | tail -n 1) && echo "${{told%%;*}}"; }}',
        "rm_follow() {",
        "  local waiting last count; waiting=$(rm_waiting) || return 1",
        "  last=${waiting##*$'\\n'}; last=${last:-$SLURM_JOB_ID}; count=$(echo -n \"$waiting\" | grep -c .)",
        f"  while [ $count -lt {NUM_WAITING} ]; do",
        '    count=$((count + 1)); last=$(rm_submit "now+$((count * delay))" "$last") && [ -n "$last" ] || return 1',
        "  done",
        "}",
    ]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
