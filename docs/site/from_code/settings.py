"""The tables of settings, from the dataclasses that hold them and the texts below their fields."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass

from orchestration.on_slurm.cluster import ClusterConfig
from rankmatch.config import NumericsConfig
from rankmatch.execution import ExecutionConfig

_HEAD = "| setting | default | |\n| --- | --- | --- |\n"


def as_markdown() -> str:
    """Return a section for each group of settings: those that change the numbers, and those that do not."""
    groups: dict[str, list[str]] = {}
    for title, config in (("Part of the identity", NumericsConfig), ("Not part of it", ExecutionConfig)):
        for prefix, section in _sections("", config):
            rows = list(_rows(prefix, section))
            if rows:
                groups.setdefault(prefix, []).append(f"**{title}.** {_summary(section)}\n\n{_HEAD}" + "\n".join(rows))
    parts = [f"## {prefix or 'Seed, split and paths'}\n\n" + "\n\n".join(tables) for prefix, tables in groups.items()]
    cluster = f"## cluster\n\n{_summary(ClusterConfig)}\n\n{_HEAD}" + "\n".join(_rows("cluster", ClusterConfig))
    return "\n\n".join([*parts, cluster])


def _sections(prefix: str, config: type) -> Iterator[tuple[str, type]]:
    yield prefix, config
    for one in fields(config):
        if is_dataclass(one.default_factory):
            yield from _sections(f"{prefix}.{one.name}".lstrip("."), one.default_factory)


def _rows(prefix: str, config: type) -> Iterator[str]:
    texts = field_texts(config)
    for one in fields(config):
        if not is_dataclass(one.default_factory):
            name = f"{prefix}.{one.name}".lstrip(".")
            yield f"| `{name}` | {_default(one)} | {texts.get(one.name, '').replace('|', chr(92) + '|')} |"


def _default(one: "Field[object]") -> str:
    value = one.default_factory() if callable(one.default_factory) else one.default
    return "" if value in ("", [], {}) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _summary(config: type) -> str:
    return " ".join((inspect.getdoc(config) or "").split())


def field_texts(config: type) -> dict[str, str]:
    """Return the text below each field of a class, which Python itself does not keep."""
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(made, ast.ClassDef)
    texts = {}
    for before, after in zip(made.body, made.body[1:], strict=False):
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and (name := _assigned(before)):
            texts[name] = " ".join(str(after.value.value).split())
    return texts


def _assigned(statement: ast.stmt) -> str:
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    return target.id if isinstance(target, ast.Name) else ""
