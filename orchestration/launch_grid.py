"""`python orchestration/launch_grid.py`: train a grid and print its table; `--help` lists what can be said."""

import sys
from pathlib import Path

# A script's own folder comes first on the path, where files named like libraries would shadow these.
sys.path[0] = str(Path(__file__).resolve().parents[1])

try:
    from orchestration.commands.main import launch_main
except ModuleNotFoundError as error:
    sys.exit(f"error: {sys.executable} has no {error.name}: run `make venv`, then `source .venv/bin/activate`")

if __name__ == "__main__":
    launch_main()
