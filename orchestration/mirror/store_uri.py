"""The addresses of MLflow stores: their kind, and their secrets to hide; pure."""

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from orchestration.runs.folders import RunsFolder

URI_VARIABLE = "MLFLOW_TRACKING_URI"
SECRET_VARIABLES = (URI_VARIABLE, "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
SQLITE, SERVERS = "sqlite:", ("http:", "https:")


def sqlite_file_of(uri: str) -> Path | None:
    """Return the file of an SQLite store; None for another kind of store."""
    return Path(uri.partition("///")[2]).resolve() if uri.startswith(SQLITE) else None


def seen_from(uri: str, folder: Path) -> str:
    """Return the URI of a store whose file, if it has one, is relative to a folder."""
    head, mark, path = uri.partition("///")
    return f"{head}{mark}{folder / path}" if uri.startswith(SQLITE) and path else uri


def is_written_by_jobs(uri: str) -> bool:
    """Return whether many processes may write a store at once; SQLite has a single writer."""
    return not uri.startswith(SQLITE)


def artifacts_folder(uri: str, runs: Path, experiment: str) -> Path | None:
    """Return the folder for the files of an experiment; None lets the server decide."""
    return None if uri.startswith(SERVERS) else RunsFolder(runs).artifacts_dir / experiment


def without_password(uri: str) -> str:
    """Return a URI without its password."""
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    query = [(name, value) for name, value in parse_qsl(parts.query) if "password" not in name]
    if ":" not in user and len(query) == len(parse_qsl(parts.query)):
        return uri
    shown = f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"  # urlunsplit would drop an empty host
    return shown + (f"?{urlencode(query)}" if query else "")


def without_secrets(text: str) -> str:
    """Remove secrets from a message."""
    text = re.sub(r"(://[^/\s:@]*):[^/\s@]+@", r"\1:***@", text)
    secrets = [os.environ.get(name, "") for name in SECRET_VARIABLES[1:]]
    secrets.append(urlsplit(os.environ.get(URI_VARIABLE, "")).password or "")
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text
