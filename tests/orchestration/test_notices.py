import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from orchestration.cluster import ClusterConfig
from orchestration.notices import WEBHOOK, notify


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


def test_same_notice_is_sent_once_an_hour_by_both_ways(webhook, tmp_path, monkeypatch):
    site = ClusterConfig(notify_command=["sh", "-c", f'echo "$0" >> {tmp_path}/told'])
    assert notify(site, tmp_path, "it's done") and not notify(site, tmp_path, "it's done")
    assert notify(site, tmp_path, "another")
    assert (tmp_path / "told").read_text() == "it's done\nanother\n"
    assert webhook == [{"text": "it's done"}, {"text": "another"}]
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert notify(site, tmp_path, "it's done")


def test_notice_that_fails_is_told_without_its_address(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(WEBHOOK, "http://127.0.0.1:1/secret")
    assert not notify(ClusterConfig(), tmp_path, "done")
    assert capsys.readouterr().err == "the notice 'done' was not sent: URLError\n"


def test_nobody_is_told_where_nobody_asked(tmp_path, monkeypatch):
    monkeypatch.delenv(WEBHOOK, raising=False)
    assert not notify(ClusterConfig(), tmp_path, "done")
    assert not list(tmp_path.iterdir())
