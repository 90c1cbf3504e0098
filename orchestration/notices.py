"""Tell somebody: by a command of their own or a webhook, each cause at most once an hour."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from orchestration import files
from orchestration.cluster import ClusterConfig

SILENCE_S = 3600.0
TIMEOUT_S = 20.0
SENT = "notices.json"
WEBHOOK = "RANKMATCH_WEBHOOK"


def notify(site: ClusterConfig, grid_dir: Path, text: str) -> bool:
    """Send a line of text unless the same was sent within the hour; a notice that fails is told and harms nothing."""
    path, webhook = grid_dir / SENT, os.environ.get(WEBHOOK)
    sent = files.read_json(path) if path.exists() else {}
    if not (site.notify_command or webhook) or time.time() - sent.get(text, 0.0) < SILENCE_S:
        return False
    files.replace(path, files.to_text({**sent, text: time.time()}))
    try:
        if site.notify_command:
            subprocess.run([*site.notify_command, text], check=True, timeout=TIMEOUT_S)
        if webhook:
            _post(webhook, text)
    except (OSError, subprocess.SubprocessError, urllib.error.URLError) as error:
        sys.stderr.write(f"the notice {text!r} was not sent: {type(error).__name__}\n")
        return False
    return True


def _post(url: str, text: str) -> None:
    request = urllib.request.Request(  # noqa: S310 (the user's own address)
        url, data=json.dumps({"text": text}).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
        pass
