"""The parameters of a run as MLflow shows them: by the names that a user types, and none that decides nothing."""

from dataclasses import asdict

from orchestration.cells import short_names_once
from orchestration.values import flatten, format_value
from rankmatch.config import TrainConfig
from rankmatch.unused import unused_settings


def parameters(config: TrainConfig) -> dict[str, str]:
    """Return the settings that a run uses: none that its method or data set does not read, and no place left empty."""
    unused, given = unused_settings(config.numerics), flatten(asdict(config))
    used = {short: given[full] for short, full in short_names_once().items() if full in given and short not in unused}
    return {short: format_value(value) for short, value in used.items() if value not in ("", [], {})}
