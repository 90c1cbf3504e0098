"""The part of the build that pyproject.toml cannot say: a wheel and a source archive keep the commit they are of."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from orchestration.machine import built_from  # noqa: E402 (a build does not look into its own folder by itself)


class BuildWithOrigin(build_py):
    """Adds `built_from.json` to what is installed; an editable install asks git instead."""

    def run(self) -> None:
        """Copy the packages, then write where they are from."""
        super().run()
        if not self.editable_mode:
            built_from.write(ROOT, Path(self.build_lib))


class ArchiveWithOrigin(sdist):
    """Adds `built_from.json` to a source archive, from which wheels are built later."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy the sources, then write where they are from."""
        super().make_release_tree(base_dir, files)
        built_from.write(ROOT, Path(base_dir))


setup(cmdclass={"build_py": BuildWithOrigin, "sdist": ArchiveWithOrigin})
