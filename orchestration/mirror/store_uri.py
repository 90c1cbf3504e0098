"""The addresses of MLflow stores: of what kind they are, and what of them nobody must see; pure."""

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

URI_VARIABLE = "MLFLOW_TRACKING_URI"
SECRET_VARIABLES = (URI_VARIABLE, "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
SQLITE, SERVERS = "sqlite:", ("http:", "https:")


def sqlite_file_of(uri: str) -> Path | None:
    """Return the file of an SQLite store; None: it is another kind of store."""
    return Path(uri.partition("///")[2]).resolve() if uri.startswith(SQLITE) else None


def is_written_by_jobs(uri: str) -> bool:
    """Tell whether many processes may write a store at once; SQLite has one writer."""
    return not uri.startswith(SQLITE)


def artifacts_folder(uri: str, runs: Path, experiment: str) -> Path | None:
    """Return where the files of an experiment go; None leaves that to a server."""
    return None if uri.startswith(SERVERS) else runs / "artifacts" / experiment


def without_password(uri: str) -> str:
    """Return a URI with the password taken out, wherever it stands."""
    parts = urlsplit(uri)
    user, at, host = parts.netloc.rpartition("@")
    query = [(name, value) for name, value in parse_qsl(parts.query) if "password" not in name]
    if ":" not in user and len(query) == len(parse_qsl(parts.query)):
        return uri
    shown = f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"  # urlunsplit would drop an empty host
    return shown + (f"?{urlencode(query)}" if query else "")


def without_secrets(text: str) -> str:
    """Take out of a message what must not be seen."""
    text = re.sub(r"(://[^/\s:@]*):[^/\s@]+@", r"\1:***@", text)
    secrets = [os.environ.get(name, "") for name in SECRET_VARIABLES[1:]]
    secrets.append(urlsplit(os.environ.get(URI_VARIABLE, "")).password or "")
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text
