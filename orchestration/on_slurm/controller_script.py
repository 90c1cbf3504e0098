"""The shell around a controller, and the lines by which jobs wake one; pure text.

What must hold even if Python does not start is here: the script first asks Slurm for followers, before anything else.
"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from orchestration.runs.folders import ControllersFolder

NUM_WAITING = 2
"""So many controllers wait in the queue while one is at work: one may die before its first line."""
MAX_FAILURES = 60
LONGEST_S, FIRST_S = 4 * 3600, 120
"""Between two controllers of which the earlier one failed: twice as long each time."""
REPORTED = 3
"""The exit code of a controller that failed and has said so itself."""
MAX_RESTARTS = 60


SILENT = 2
"""So many in a row that have not come to their end are told of by others: what ends a job at its time limit ends its
shell too."""


def before(
    name: str, folder: ControllersFolder, over: Path, every_s: int, words: Sequence[str] = (), text: str = ""
) -> list[str]:
    """Return the first lines of a controller: it counts itself as failed until it succeeds, and submits its followers.

    Args:
        name: The name of all controllers of the campaign, and of no other job.
        folder: The controllers' folder.
        over: The file that marks the campaign as over.
        every_s: Seconds between two controllers if the earlier one ended well.
        words: The site's command that takes a line of text, if it has one.
        text: The message for when earlier controllers could not report anything.
    """
    told = _quoted(folder.told_file)
    return [
        *_functions(name, folder),
        f"if [ -e {_quoted(over)} ]; then rm_slurm scancel --quiet --name={name} --state=PENDING; exit 0; fi",
        f"failures=$(cat {_quoted(folder.failures_file)} 2> /dev/null); failures=${{failures:-0}}",
        f"echo $((failures + 1)) > {_quoted(folder.failures_file)}",
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


def after(name: str, folder: ControllersFolder, over: Path, words: Sequence[str], text: str) -> list[str]:
    """Return the last lines of a controller: if nobody follows it, it goes back into the queue itself.

    Args:
        name: The name of all controllers of the campaign.
        folder: The controllers' folder.
        over: The file that marks the campaign as over.
        words: The site's command that takes a line of text, if it has one.
        text: The message for when Python could not report what is wrong.
    """
    return [
        "code=$?",
        f"if [ $code -eq 0 ] || [ -e {_quoted(over)} ]; then exit $code; fi",
        f"touch {_quoted(folder.told_file)}",
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
        # a requeue is no new job, so no limit on the number of jobs prevents it
        '  rm_slurm scontrol requeue "$SLURM_JOB_ID" && sleep 60',
        "fi",
        "exit $code",
    ]


def wake(name: str, folder: ControllersFolder, over: Path) -> list[str]:
    """Return the last lines of a job whose end a controller must see: the first waiting one starts now, or a new one.

    A controller also looks by itself some minutes later: if none of this works, only these minutes are lost.
    """
    return [
        *_functions(name, folder),
        f"rm_wake() {{ [ -e {_quoted(over)} ] && return",
        "  local waiting; waiting=$(rm_waiting) || return",
        '  if [ -n "$waiting" ]; then rm_slurm scontrol update JobId="${waiting%%$\'\\n\'*}" StartTime=now',
        '  elif waiting=$(rm_queue) && [ -z "$waiting" ]; then rm_submit now; fi; }',
        'if [ $code -ne 0 ] || { left=$(rm_squeue --array --name="$SLURM_JOB_NAME" --format=%i)',
        '  [ "$(echo "$left" | wc -l)" -le 2 ]; }; then rm_wake; fi 2> /dev/null',
    ]


def _tell(words: Sequence[str], text: str) -> list[str]:
    body = shlex.quote(json.dumps({"text": text}))
    return [
        f"  echo {shlex.quote(text)}",
        *([f"  timeout 60 {shlex.join([*words, text])}"] if words else []),
        # The address is a secret, and everybody on the machine sees a program's words: curl reads it from its input.
        '  case "$RANKMATCH_WEBHOOK" in http://*@*) ;;',
        '  https://* | http://localhost[:/]* | http://127.0.0.1[:/]* | "http://[::1]"*)',
        '    printf \'url = "%s"\\n\' "$RANKMATCH_WEBHOOK" | curl --config - --silent --max-time 20 '
        f"--header 'Content-Type: application/json' --data {body} > /dev/null ;;",
        "  esac",
    ]


def _functions(name: str, folder: ControllersFolder) -> list[str]:
    script = _quoted(folder.script_file)
    return [
        # as tool_environment has it: neither a user's filters nor this job's variables
        "rm_slurm() { (for one in ${!SLURM_@} ${!SBATCH_@} ${!SQUEUE_@} ${!SCANCEL_@} ${!SCONTROL_@}; do",
        '  case $one in SLURM_CONF | SLURM_JWT) ;; *) unset "$one" ;; esac; done; "$@"); }',
        'rm_squeue() { rm_slurm squeue --noheader --all --me "$@"; }',
        f'rm_queue() {{ rm_squeue --name={name} --format=%A "$@"; }}',
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
