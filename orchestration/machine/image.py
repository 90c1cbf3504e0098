"""The container image that cells train in, by digest: the same name may later mean other libraries."""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestration.machine import files
from orchestration.machine.damage import DamagedFileError
from orchestration.machine.fields import COUNT, TEXT, Fields
from rankmatch.hashing import sha256_of

VARIABLE = "RANKMATCH_IMAGE"
"""Variable that names the image to processes in it, with the digest if known: an image cannot know its own."""
IMAGE, DIGEST, UNKNOWN = "image", "image_sha256", "image_unknown"
UNSEEN = "the file cannot be seen from where the job was submitted"
"""What it held before may have been replaced since, so no remembered digest is taken for it."""
_IN_A_REFERENCE = re.compile(r"@sha256:([0-9a-f]{64})$")
_OF_A_FILE = Fields({"path": TEXT, "bytes": COUNT, "mtime_ns": COUNT, DIGEST: TEXT})


def of_this_process(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the provenance fields of this process's image; empty if none is named."""
    return of_reference(environment.get(VARIABLE, ""))


def of_reference(reference: str) -> dict[str, str]:
    """Return the provenance fields of an image reference; its digest is in the reference, or unknown."""
    if not reference:
        return {}
    found = _IN_A_REFERENCE.search(reference)
    return {IMAGE: reference} | ({DIGEST: found[1]} if found else {})


def of_site(image: str, cache_dir: Path) -> dict[str, str]:
    """Return the provenance fields of a site's image; a file is hashed, once for each of its states.

    Args:
        image: A file, as for Apptainer and enroot, or a reference to a registry; empty: there is none.
        cache_dir: Remembers the hashes of files.
    """
    path = Path(image)
    if not image or _IN_A_REFERENCE.search(image):
        return of_reference(image)
    known = cache_dir / f"image-{hashlib.sha256(image.encode()).hexdigest()[:16]}.json"
    try:
        if path.is_file():
            return {IMAGE: image, DIGEST: _of_file(path, known)}
        is_seen = path.exists() or not path.is_absolute()  # a folder, or a reference
    except OSError:
        is_seen = False
    return {IMAGE: image} if is_seen else {IMAGE: image, UNKNOWN: UNSEEN}


def recorded(provenance: Mapping[str, Any], of_site: Mapping[str, str]) -> dict[str, Any]:
    """Return a launcher's provenance with the image of its site's jobs in place of the launcher's own."""
    own = (IMAGE, DIGEST, UNKNOWN) if of_site else ()
    return {key: value for key, value in provenance.items() if key not in own} | dict(of_site)


def _of_file(path: Path, known: Path) -> str:
    now = path.stat()
    state = {"path": str(path), "bytes": now.st_size, "mtime_ns": now.st_mtime_ns}
    try:
        before = files.read_json(known, _OF_A_FILE)
        if all(before[name] == value for name, value in state.items()):
            return str(before[DIGEST])
    except (OSError, DamagedFileError):  # it is hashed again
        pass
    digest = sha256_of(path)
    known.parent.mkdir(parents=True, exist_ok=True)
    files.replace(known, files.to_text({**state, DIGEST: digest}))
    return digest
