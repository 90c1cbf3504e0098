"""One holder at a time, on file systems without locks too."""

import errno
import fcntl
import multiprocessing
import os

import filelock
import pytest

from rankmatch import locks


@pytest.fixture(params=[None, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def path(request, tmp_path, monkeypatch):
    """A lock on a file system that has locks, or answers so."""
    if request.param:

        def refuse(*arguments):
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", refuse)
    return tmp_path / "lock"


def test_lock_has_one_holder_at_a_time(path):
    with locks.held(path), pytest.raises(filelock.Timeout):
        locks.acquire(path, 0.0)
    with locks.held(path, 0.0):
        pass


def die_holding(path):
    locks.acquire(path)
    os._exit(0)


def test_lock_of_a_process_that_died_is_free(path):
    process = multiprocessing.get_context("fork").Process(target=die_holding, args=(path,))
    process.start()
    process.join()
    with locks.held(path, 5.0):
        assert locks.hint(path) == "" or str(tmp_marker(path)) in locks.hint(path)


def tmp_marker(path):
    return path.with_name("lock.held")


def test_who_waits_for_a_holder_that_the_kernel_does_not_know_is_told_which_file_to_remove(path):
    with locks.held(path):
        is_known = not tmp_marker(path).exists()
        expected = f"; this file system has no locks: where the holder is gone, remove {tmp_marker(path)}"
        assert locks.hint(path) == ("" if is_known else expected)


def test_other_errors_are_raised(tmp_path, monkeypatch):
    def fails(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(OSError, match="Input/output error"):
        locks.acquire(tmp_path / "lock", 0.0)
