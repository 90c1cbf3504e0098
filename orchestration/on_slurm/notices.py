"""Tell somebody: by mail, a command of their own or a webhook, each cause at most once an hour."""

import json
import os
import smtplib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import filelock

from orchestration import files
from orchestration.on_slurm.cluster import ClusterConfig

SILENCE_S = 3600.0
TIMEOUT_S = 20.0
SENT = "notices.json"
WEBHOOK = "RANKMATCH_WEBHOOK"


@dataclass(frozen=True, slots=True)
class Notifier:
    """Who is told of a grid, and how; travels to jobs."""

    grid_dir: str
    mail_user: str = ""
    mail_server: str = ""
    command: Sequence[str] = ()

    @classmethod
    def of(cls, site: ClusterConfig, grid_dir: Path) -> "Notifier":
        """Take what a site says."""
        return cls(str(grid_dir), site.mail_user, site.mail_server, tuple(site.notify_command))

    def tell(self, cause: str, text: str, *, once: bool = False) -> bool:
        """Send a line of text unless one of the same cause was sent within the hour, or ever.

        A notice that fails is told and harms nothing.
        """
        ways = self._ways()
        if not ways or not self._claim(cause, once=once):
            return False
        failed = [error for way in ways if (error := _failure(way, text))]
        for error in failed:
            sys.stderr.write(f"the notice {text!r} was not sent: {error}\n")
        if failed:
            self._note(cause, is_sent=False)
        return not failed

    def _ways(self) -> list[Callable[[str], None]]:
        webhook = os.environ.get(WEBHOOK)
        ways: list[Callable[[str], None]] = []
        if self.command:
            ways.append(lambda text: _run([*self.command, text]))
        if webhook:
            ways.append(lambda text: _post(webhook, text))
        if self.mail_user:
            ways.append(lambda text: _mail(self.mail_server, self.mail_user, text))
        return ways

    def _claim(self, cause: str, *, once: bool) -> bool:
        """Take a cause for oneself, so that of many jobs at once one tells of it."""
        with self._lock():
            earlier = self._read().get(cause)
            is_silent = earlier is not None and (
                (once and earlier["sent"]) or time.time() - earlier["time"] < SILENCE_S
            )
            if not is_silent:
                self._write(cause, is_sent=True)
            return not is_silent

    def _note(self, cause: str, *, is_sent: bool) -> None:
        with self._lock():
            self._write(cause, is_sent=is_sent)

    def _lock(self) -> filelock.BaseFileLock:
        return filelock.FileLock(Path(self.grid_dir) / ".notices.lock")

    def _read(self) -> dict[str, Any]:
        path = Path(self.grid_dir) / SENT
        return files.read_json(path) if path.exists() else {}

    def _write(self, cause: str, *, is_sent: bool) -> None:
        content = {**self._read(), cause: {"time": time.time(), "sent": is_sent}}
        files.replace(Path(self.grid_dir) / SENT, files.to_text(content))


def _failure(way: Callable[[str], None], text: str) -> str:
    """Send in one way; return the class of what went wrong, since the rest may hold an address."""
    try:
        way(text)
    except (OSError, ValueError, subprocess.SubprocessError, smtplib.SMTPException) as error:
        return type(error).__name__
    return ""


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, timeout=TIMEOUT_S)


def _post(url: str, text: str) -> None:
    request = urllib.request.Request(  # noqa: S310 (the user's own address)
        url, data=json.dumps({"text": text}).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
        pass


def _mail(server: str, user: str, text: str) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = user, user, f"rankmatch: {' '.join(text.split())[:120]}"
    message.set_content(text)
    with smtplib.SMTP(server, timeout=TIMEOUT_S) as connection:
        connection.send_message(message)
