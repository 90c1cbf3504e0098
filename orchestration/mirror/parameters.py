"""The parameters of a run in MLflow: by the names that a user types, and without unused settings."""

from dataclasses import asdict

from orchestration.grids.cells import short_names_once
from orchestration.grids.values import flatten, format_value
from rankmatch.config import TrainConfig
from rankmatch.unused import unused_settings


def parameters(config: TrainConfig) -> dict[str, str]:
    """Return the settings that a run uses, without those that its method or data set ignores or empty paths."""
    unused, given = unused_settings(config.numerics), flatten(asdict(config))
    used = {short: given[full] for short, full in short_names_once().items() if full in given and short not in unused}
    return {short: format_value(value) for short, value in used.items() if value not in ("", [], {})}
