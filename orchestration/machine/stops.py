"""The signals that end a command as Ctrl-C does: with what it has, and with words on how to go on."""

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_OUTPUTS = (1, 2)


@contextmanager
def like_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, and so SIGHUP, which a terminal that is closed sends, unless it is ignored (nohup)."""
    hears_hang_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _interrupt)}
    if hears_hang_up:
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, _hang_up)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _hang_up(number: int, frame: FrameType | None) -> None:
    """End by what there is to be written, which takes longer than the terminal lives; its shell hangs up once more."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in _OUTPUTS:  # a file, as after `> log`, goes on being written
        if not stat.S_ISREG(os.fstat(output).st_mode):
            os.dup2(nowhere, output)
    os.close(nowhere)
    raise KeyboardInterrupt
