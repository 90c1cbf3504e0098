import errno
import json
import os
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import filelock
import pytest

from orchestration.machine import files
from orchestration.on_slurm import notices
from orchestration.on_slurm.cluster import ClusterConfig
from orchestration.on_slurm.notices import WEBHOOK, Notifier


@pytest.fixture
def webhook(monkeypatch):
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv(WEBHOOK, f"http://127.0.0.1:{server.server_port}/secret")
        yield received
        server.shutdown()
        thread.join()


def told_by(tmp_path, **settings) -> Notifier:
    return Notifier.of(ClusterConfig(**settings), tmp_path)


def test_cause_is_told_once_an_hour_by_both_ways(webhook, tmp_path, monkeypatch):
    notifier = told_by(tmp_path, notify_command=["sh", "-c", f'echo "$0" >> {tmp_path}/told'])
    assert notifier.tell("done", "it's done") and not notifier.tell("done", "it's done again")
    assert notifier.tell("other", "another")
    assert (tmp_path / "told").read_text() == "it's done\nanother\n"
    assert webhook == [{"text": "it's done"}, {"text": "another"}]
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert notifier.tell("done", "it's done")


@pytest.mark.parametrize("ahead_s", [3 * 86_400, -3 * 86_400])
def test_notice_of_a_node_whose_clock_is_days_off_does_not_silence_its_cause(ahead_s, tmp_path, monkeypatch):
    notifier, now = told_by(tmp_path, notify_command=["true"]), time.time()
    with monkeypatch.context() as wrong:
        wrong.setattr("time.time", lambda: now + ahead_s)
        assert notifier.tell("failed", "it failed")
    assert notifier.tell("failed", "it failed")
    with monkeypatch.context() as wrong:
        wrong.setattr("time.time", lambda: now - 60)  # some seconds and minutes are no reason to say it twice
        assert not notifier.tell("failed", "it failed")


def test_begin_is_told_once_for_ever_unless_that_failed(webhook, tmp_path, monkeypatch):
    notifier = told_by(tmp_path)
    assert notifier.tell("begun", "begun", once=True)
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert not notifier.tell("begun", "begun", once=True)
    with monkeypatch.context() as changed:
        changed.setenv(WEBHOOK, "http://127.0.0.1:1/secret")
        assert not notifier.tell("other", "other", once=True)
    assert not notifier.tell("other", "other", once=True)
    monkeypatch.setattr("time.time", lambda: 4e9 + 3601)
    assert notifier.tell("other", "other", once=True)
    assert webhook == [{"text": "begun"}, {"text": "other"}]


def test_notice_that_one_way_sends_is_not_repeated_for_another_that_is_broken(webhook, tmp_path, capsys, monkeypatch):
    notifier = told_by(tmp_path, notify_command=["no-such-mailer"])
    assert notifier.tell("begun", "begun", once=True)
    assert capsys.readouterr().err == "the notice 'begun' was not sent: FileNotFoundError\n"
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert not notifier.tell("begun", "begun", once=True)
    assert webhook == [{"text": "begun"}] and capsys.readouterr().err == ""


def test_what_a_notice_was_about_is_known_once_it_was_sent(webhook, tmp_path, monkeypatch):
    notifier = told_by(tmp_path)
    with monkeypatch.context() as changed:
        changed.setenv(WEBHOOK, "http://127.0.0.1:1/secret")
        assert not notifier.tell("unreadable", "a", about=["a"])
    assert notifier.untold("unreadable", ["a"]) == {"a"}
    for hour, name in enumerate("ab", 1):
        monkeypatch.setattr("time.time", lambda: 4e9 + 3601 * hour)  # noqa: B023
        assert notifier.tell("unreadable", name, about=[name])
        assert not notifier.tell("unreadable", "c", about=["c"])
    assert notifier.untold("unreadable", "abc") == {"c"} and notifier.untold("other", "abc") == {*"abc"}


def test_of_many_jobs_at_once_one_tells(tmp_path):
    notifier = told_by(tmp_path, notify_command=["sh", "-c", f'echo "$0" >> {tmp_path}/told'])
    threads = [threading.Thread(target=notifier.tell, args=("begun", "begun")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "told").read_text() == "begun\n"


class MailServer(socketserver.StreamRequestHandler):
    """Takes one mail as SMTP has it."""

    received: ClassVar[list[str]] = []

    def handle(self):
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.received.append(b"".join(lines).decode())
            if line.upper().startswith(b"QUIT"):
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 good\r\n")


def test_mail_is_sent_to_whom_the_site_names(tmp_path):
    with socketserver.TCPServer(("127.0.0.1", 0), MailServer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        notifier = told_by(tmp_path, mail_user="me@example.org", mail_server=f"127.0.0.1:{server.server_address[1]}")
        assert notifier.tell("done", "all is done")
        thread.join()
    (mail,) = MailServer.received
    assert "To: me@example.org" in mail and "Subject: rankmatch: all is done" in mail
    assert mail.endswith("all is done\r\n")


def test_notice_that_fails_is_told_without_its_address(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(WEBHOOK, "http://127.0.0.1:1/secret")
    assert not told_by(tmp_path).tell("done", "done")
    assert capsys.readouterr().err == "the notice 'done' was not sent: URLError\n"
    monkeypatch.setenv(WEBHOOK, "no address")
    assert not told_by(tmp_path).tell("other", "other")
    assert capsys.readouterr().err == "the notice 'other' was not sent: ValueError\n"


def test_last_word_is_tried_five_times_and_other_notices_once(tmp_path, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    notifier = told_by(tmp_path, notify_command=["sh", "-c", f'echo "$0" >> {tmp_path}/tries; exit 1'])
    assert not notifier.tell("done", "done", once=True, is_last_word=True)
    assert not notifier.tell("other", "other")
    assert (tmp_path / "tries").read_text().split() == [*["done"] * 5, "other"]
    assert [wait for wait in waits if wait >= 1] == [5, 10, 20, 40]  # subprocess sleeps too, for milliseconds


def test_notice_of_a_process_that_was_ended_while_it_was_sent_is_sent_by_a_later_one(webhook, tmp_path, monkeypatch):
    with monkeypatch.context() as changed, pytest.raises(KeyboardInterrupt):
        changed.setattr(notices, "_failure", _ended)
        told_by(tmp_path).tell("done", "all is done", once=True)
    assert not told_by(tmp_path).tell("done", "all is done", once=True)  # it may be at it
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert told_by(tmp_path).tell("done", "all is done", once=True)
    assert webhook == [{"text": "all is done"}]


def _ended(*_):
    raise KeyboardInterrupt


def test_nobody_is_told_where_nobody_asked(tmp_path, monkeypatch):
    monkeypatch.delenv(WEBHOOK, raising=False)
    assert not told_by(tmp_path).tell("done", "done")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"done": 1}',
        '{"done": {"time": 1, "sent": true, "about": "a"}}',
        *(f'{{"done": {{"time": {time}, "sent": false}}}}' for time in ('"soon"', "null")),
    ],
)
def test_damaged_list_of_notices_is_replaced_and_the_notice_is_sent(content, webhook, tmp_path):
    (tmp_path / "notices.json").write_text(content)
    assert told_by(tmp_path).tell("done", "it's done")
    assert not told_by(tmp_path).tell("done", "it's done")
    assert webhook == [{"text": "it's done"}]


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_notice_on_a_full_disk_is_not_sent_by_each_job_but_by_whom_nobody_else_tells(
    webhook, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(files, "replace", full)
    assert not told_by(tmp_path).tell("failed", "it failed")
    assert "cannot be noted: OSError: No space left on device" in capsys.readouterr().err
    assert told_by(tmp_path).tell("stands", "it stands still", insists=True)
    assert webhook == [{"text": "it stands still"}]


def test_notice_that_nobody_can_send_ends_nothing_and_is_in_the_log(tmp_path, capsys, monkeypatch):
    assert not told_by(tmp_path, notify_command=["no-such-mailer"]).tell("done", "it's done")
    assert capsys.readouterr().err == 'the notice "it\'s done" was not sent: FileNotFoundError\n'
    monkeypatch.setattr(Notifier, "_ways", full)
    assert not told_by(tmp_path).tell("other", "another")
    assert capsys.readouterr().err == "the notice 'another' failed: OSError: No space left on device\n"


def test_notice_waits_for_nobody_who_holds_the_list_for_ever(webhook, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(notices, "TIMEOUT_S", 0.1)
    with filelock.FileLock(tmp_path / ".notices.lock"):
        assert not told_by(tmp_path).tell("done", "it's done")
    assert "cannot be noted: Timeout" in capsys.readouterr().err


@pytest.mark.parametrize(
    "address",
    ["http://hooks.example/secret", "ftp://hooks.example/secret", "file:///etc/passwd", "no address",
     "http://127.0.0.1@hooks.example/secret", "http://[::1/secret"],
)  # fmt: skip
def test_webhook_in_the_clear_is_refused_without_repeating_it(address, monkeypatch):
    monkeypatch.setenv(WEBHOOK, address)
    with pytest.raises(ValueError, match="must be an https:// address") as refused:
        notices.check_webhook()
    assert "secret" not in str(refused.value)
    with pytest.raises(ValueError, match="must be an https:// address"):
        notices._post(address, "text")


@pytest.mark.parametrize(
    "address", ["https://hooks.example/secret", "http://localhost:8/secret", "http://[::1]/secret"]
)
def test_webhook_by_tls_or_on_this_machine_is_taken(address, monkeypatch):
    monkeypatch.setenv(WEBHOOK, address)
    notices.check_webhook()


def test_webhook_that_sends_elsewhere_is_not_followed(tmp_path, monkeypatch, capsys):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.send_response(307)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv(WEBHOOK, f"http://127.0.0.1:{server.server_port}/first")
        assert not told_by(tmp_path).tell("done", "text")
        server.shutdown()
        thread.join()
    assert asked == ["/first"]
    assert capsys.readouterr().err == "the notice 'text' was not sent: HTTPError\n"
