"""The JSON schemas of what commands answer, made from what makes these answers.

`python tests/json_schemas.py` writes them again after a change; a test compares the two.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import pyarrow as pa  # noqa: E402
from pydantic import ConfigDict, TypeAdapter  # noqa: E402

from orchestration.commands.schema import FOLDER  # noqa: E402
from orchestration.grids.cells import NAMES  # noqa: E402
from orchestration.launching import status_answer  # noqa: E402
from orchestration.machine.answers import SCHEMA  # noqa: E402
from orchestration.planning import plan_answer  # noqa: E402
from orchestration.results import energy, run_table  # noqa: E402

DIALECT = {"$schema": "https://json-schema.org/draft/2020-12/schema"}


def all_schemas() -> dict[str, dict[str, Any]]:
    """Return each schema by its name."""
    return {
        "plan": _of(plan_answer, plan_answer.PlanAnswer),
        "status": _of(status_answer, status_answer.StatusAnswer),
        "results": _of_row(),
    }


def text_of(schema: dict[str, Any]) -> str:
    """Return a schema as its file has it."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _of(module: Any, answer: type) -> dict[str, Any]:
    described = ConfigDict(use_attribute_docstrings=True)
    for kind in vars(module).values():
        if isinstance(kind, type) and kind.__module__ == module.__name__:
            kind.__pydantic_config__ = described  # type: ignore[attr-defined]
    return DIALECT | TypeAdapter(answer).json_schema()


def _of_row() -> dict[str, Any]:
    """Describe a row of `results --format json` by the table that it is of."""
    texts: dict[str, Any] = {"run": {"type": "string", "description": "Its folder, relative to the runs folder."}}
    texts |= {"grid": {"type": "string"}, "signature": {"type": "string"}}
    texts |= {name: {"type": ["string", "null"]} for name in NAMES}
    fields = {name: _json_type(kind) for name, kind in run_table.FIELDS.items()}
    kwh = {energy.KWH: _json_type(pa.float64()) | {"description": "With --energy."}}
    needed = {"schema": {"const": SCHEMA}, **texts, **fields}
    return DIALECT | {
        "title": "A row of results",
        "description": "A run; fractions for mIoU and IoU, null for what is not known. Other fields are its axes.",
        "type": "object",
        "properties": needed | kwh,
        "required": [*needed],
        "additionalProperties": {"type": ["string", "null"]},
    }


def _json_type(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"type": ["array", "null"], "items": _json_type(kind.value_type)}
    name = "string" if pa.types.is_string(kind) else "integer" if pa.types.is_integer(kind) else "number"
    return {"type": [name, "null"]}


if __name__ == "__main__":
    for name, schema in all_schemas().items():
        (FOLDER / f"{name}.json").write_text(text_of(schema))
