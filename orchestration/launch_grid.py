"""`python orchestration/launch_grid.py`: train a grid and print its table; `--help` lists what can be said."""

import sys
from pathlib import Path

# A script's own folder comes first on the path, where files named like libraries would shadow these.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from orchestration.cli import launch_main  # noqa: E402

if __name__ == "__main__":
    launch_main()
