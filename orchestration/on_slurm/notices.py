"""Notify people: by mail, a command of their own or a webhook, each cause at most once an hour."""

import json
import os
import smtplib
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any

import filelock

from orchestration.machine import clock, files
from orchestration.machine.fields import FLAG, NUMBER, TEXT, Fields
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.runs.folders import GridFolder
from rankmatch import locks

SILENCE_S = 3600.0
TIMEOUT_S = 20.0
NUM_TRIES = 5
"""Of what nobody says again; they wait 75 s in all."""
WEBHOOK = "RANKMATCH_WEBHOOK"
_ABOUT = "about"
_OF_CAUSE = Fields({"time": NUMBER, "sent": FLAG}, {_ABOUT: TEXT.listed()})
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Notifier:
    """Who is notified about a grid, and how; travels to jobs."""

    grid_dir: str
    mail_user: str = ""
    mail_server: str = ""
    command: Sequence[str] = ()

    @classmethod
    def of(cls, site: ClusterConfig, grid_dir: Path) -> "Notifier":
        """Take a site's settings."""
        return cls(str(grid_dir), site.mail_user, site.mail_server, tuple(site.notify_command))

    def tell(
        self,
        cause: str,
        text: str,
        *,
        once: bool = False,
        since: float | None = None,
        insists: bool = False,
        is_last_word: bool = False,
        about: Collection[str] = (),
    ) -> bool:
        """Send a line of text unless its cause was reported within the hour, or ever, or since something happened.

        Return whether it was sent, in one way at least: what fails in another is written to the log, and it is not sent
        again for that. What it is `about` is kept, see `untold`.

        A notice that fails is written to the log and harms nothing. One that `insists` is sent even if nobody can
        record that it was, on a full disk; others are not, as each job of a grid would then send them. One that is the
        last word on something, which nobody repeats later, is tried for a minute or two.
        """
        with harmless(f"the notice {text!r}"):
            ways = self._ways()
            if not ways or not self._claims(cause, text, 0.0 if once else since, insists=insists):
                return False
            failed = [error for way in ways if (error := _failure(way, text, NUM_TRIES if is_last_word else 1))]
            for error in failed:
                sys.stderr.write(f"the notice {text!r} was not sent: {error}\n")
            if len(failed) < len(ways):
                with suppress(OSError, filelock.Timeout):  # it is sent again, after an hour at the earliest
                    self._note_sent(cause, about)
                return True
        return False

    def untold(self, cause: str, about: Collection[str]) -> set[str]:
        """Return of what no notice of a cause has told: one about several things is sent again if there are others."""
        with harmless(f"reading what was told of {cause!r}"):
            return {*about} - {*self._read().get(cause, {}).get(_ABOUT, [])}
        return {*about}

    def tell_beside(self, cause: str, text: str, *, once: bool = True) -> threading.Thread:
        """Send a line from a thread: a process that must hear Slurm's signals waits for no mail server."""
        thread = threading.Thread(target=partial(self.tell, cause, text, once=once), daemon=True)
        thread.start()
        return thread

    def _claims(self, cause: str, text: str, since: float | None, *, insists: bool) -> bool:
        try:
            return self._claim(cause, since)
        except (OSError, filelock.Timeout) as error:
            words = f"{_words_of(error)}{locks.hint(self._folder.notices_lock)}"
            sys.stderr.write(f"that the notice {text!r} is sent cannot be noted: {words}\n")
            return insists

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

    def _claim(self, cause: str, since: float | None) -> bool:
        """Claim a cause, so that of many jobs at once one reports it; if that dies meanwhile, one reports it later."""
        with self._lock():
            earlier = self._read().get(cause)
            is_silent = earlier is not None and (
                (since is not None and earlier["sent"] and earlier["time"] >= since)
                or abs(clock.now() - earlier["time"]) < SILENCE_S  # clocks may differ
            )
            if not is_silent:
                self._write(cause, is_sent=False)
            return not is_silent

    def _note_sent(self, cause: str, about: Collection[str]) -> None:
        with self._lock():
            self._write(cause, is_sent=True, about=about)

    @property
    def _folder(self) -> GridFolder:
        return GridFolder(Path(self.grid_dir))

    def _lock(self) -> AbstractContextManager[None]:
        return locks.held(self._folder.notices_lock, TIMEOUT_S)

    def _read(self) -> dict[str, Any]:
        """Return what was sent; a damaged file, such as a full disk leaves, counts as missing and is replaced."""
        path = self._folder.notices_file
        try:
            content: Any = files.read_json(path)
            if not isinstance(content, dict) or any(map(_OF_CAUSE.fault, content.values())):
                raise ValueError(f"{path} must hold when each cause was told; it is damaged")
            known: dict[str, Any] = content
            return known
        except FileNotFoundError:
            return {}
        except ValueError as error:
            sys.stderr.write(f"{error}; notices may be sent again\n")
            return {}

    def _write(self, cause: str, *, is_sent: bool, about: Collection[str] = ()) -> None:
        known = self._read()
        told = sorted({*known.get(cause, {}).get(_ABOUT, []), *about})
        content = {**known, cause: {"time": clock.now(), "sent": is_sent, **({_ABOUT: told} if told else {})}}
        files.replace(self._folder.notices_file, files.to_text(content))


@contextmanager
def harmless(what: str) -> Iterator[None]:
    """Log the failure of something that only informs: it must not end what trains or submits."""
    try:
        yield
    except Exception as error:  # of files, locks, mail, MLflow or this code: the notice is worth less than the work
        with suppress(OSError):  # the log itself may be on a full disk
            sys.stderr.write(f"{what} failed: {_words_of(error)}\n")


def _words_of(error: Exception) -> str:
    """Return what went wrong: the system's own words, else the error's class alone, as its text may hold an address."""
    said = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _failure(way: Callable[[str], None], text: str, num_tries: int) -> str:
    """Send in one way, several times if it fails; return what went wrong the last time."""
    import tenacity  # only needed where something is sent, so by few

    tries = tenacity.Retrying(
        sleep=clock.sleep,
        retry=tenacity.retry_if_result(bool),
        wait=tenacity.wait_exponential(multiplier=5),
        stop=tenacity.stop_after_attempt(num_tries),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else "",
    )
    return str(tries(_error, way, text))


def _error(way: Callable[[str], None], text: str) -> str:
    """Send in one way; return what went wrong: a way that fails must not keep the others from being tried."""
    try:
        way(text)
    except Exception as error:  # smtplib, urllib and subprocess share no base class for errors
        return type(error).__name__
    return ""


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, timeout=TIMEOUT_S)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:  # noqa: ANN401 (as urllib has it)
        """Follow none: the text would go to an address that nobody named."""


def check_webhook() -> None:
    """Refuse a webhook to which texts would travel in the clear, before anything is submitted.

    Raises:
        ValueError: Without the address, of which a part is mostly a secret.
    """
    if (url := os.environ.get(WEBHOOK, "")) and not _is_safe(url):
        raise ValueError(f"{WEBHOOK} must be an https:// address, or http:// on this machine (127.0.0.1, localhost)")


def _is_safe(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK))


def _post(url: str, text: str) -> None:
    check_webhook()
    request = urllib.request.Request(  # noqa: S310 (the user's own address)
        url, data=json.dumps({"text": text}).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_S):
        pass


def _mail(server: str, user: str, text: str) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = user, user, f"rankmatch: {' '.join(text.split())[:120]}"
    message.set_content(text)
    with smtplib.SMTP(server, timeout=TIMEOUT_S) as connection:
        connection.send_message(message)
