"""The image that cells train in is told from others by its digest."""

import hashlib
import os
from pathlib import Path

import pytest

from orchestration.machine import image, provenance
from orchestration.runs import made_with

REFERENCE = f"registry.example.org/rankmatch:1@sha256:{'ab' * 32}"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def sif(tmp_path: Path) -> Path:
    path = tmp_path / "images" / "rankmatch.sif"
    path.parent.mkdir()
    path.write_bytes(b"first")
    return path


def test_file_is_known_by_its_content_and_hashed_once_for_each_state(sif, tmp_path, monkeypatch):
    cache = tmp_path / "checked"
    assert image.of_site(str(sif), cache) == {"image": str(sif), "image_sha256": digest(b"first")}
    hashed = []
    monkeypatch.setattr(image, "sha256_of", lambda path: hashed.append(path) or digest(path.read_bytes()))
    assert image.of_site(str(sif), cache)["image_sha256"] == digest(b"first")
    assert not hashed
    sif.write_bytes(b"newer")
    os.utime(sif, ns=(1, 1))
    assert image.of_site(str(sif), cache)["image_sha256"] == digest(b"newer")
    assert hashed == [sif]


def test_file_that_is_not_seen_from_here_is_known_by_its_path_alone(sif, tmp_path):
    """A controller may run in the image, where the image itself is not mounted, and it may have been built anew."""
    cache = tmp_path / "checked"
    assert "image_sha256" in image.of_site(str(sif), cache)
    sif.unlink()
    assert image.of_site(str(sif), cache) == {"image": str(sif), "image_unknown": image.UNSEEN}


def test_image_that_is_a_folder_is_known_by_its_path(tmp_path):
    assert image.of_site(str(tmp_path), tmp_path / "checked") == {"image": str(tmp_path)}


def test_run_is_mixed_only_where_two_attempts_are_known_to_have_had_other_images():
    old, unseen = {}, {"image": "/i.sif", "image_unknown": image.UNSEEN}
    first, second = ({"image": "/i.sif", "image_sha256": word * 32} for word in ("ab", "cd"))

    def names(*attempts: dict[str, str]) -> list[str]:
        return made_with.images({"attempts": list(attempts)})

    assert names(old, first) == names(unseen, first) == names(first, old, unseen) == ["ab" * 32]
    assert names(old, unseen) == []
    assert names(first, old, second) == ["ab" * 32, "cd" * 32]
    assert names({"image": "docker://a"}, {"image": "docker://b"}) == ["docker://a", "docker://b"]
    assert ("image", "/i.sif") in made_with.flat({"image": "/i.sif", "attempts": [old, first]})


@pytest.mark.parametrize(
    ("reference", "known"),
    [
        (REFERENCE, {"image": REFERENCE, "image_sha256": "ab" * 32}),
        ("docker://rankmatch:latest", {"image": "docker://rankmatch:latest"}),
        ("", {}),
    ],
)
def test_reference_tells_its_digest_or_nothing_more_than_its_name(reference, known, tmp_path, monkeypatch):
    assert image.of_site(reference, tmp_path) == known
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv(image.VARIABLE, reference)
    found = provenance.collect(tmp_path)
    assert {name: found[name] for name in ("image", "image_sha256") if name in found} == known


def test_image_of_a_site_replaces_the_launchers_with_its_digest():
    launcher = {"commit": "c", "image": "docker://a", "image_sha256": "a" * 64}
    assert image.recorded(launcher, {"image": "docker://b"}) == {"commit": "c", "image": "docker://b"}
    assert image.recorded(launcher, {}) == launcher
