"""Rewrite the generated parts of docs/protocol.md: the table of topics and the fields of every message.

Usage: ``scripts/write-docs``. What stands between a pair of marks comes from ``wire.topics.ROUTES`` and from the types and
docstrings of the messages; all else on the page is written by hand. A test compares the page with the code.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import msgspec

from wire.messages import PROTOCOL_VERSION, Message, Summary
from wire.topics import QOS, ROOT, ROUTES, Route

PAGE = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(renewed(PAGE.read_text()))


def renewed(page: str) -> str:
    """Return the page with its generated parts as the code has them now."""
    for name, text in {"topics": topics(), "messages": messages()}.items():
        begin, end = f"<!-- {name}: written by scripts/write-docs -->", f"<!-- end of {name} -->"
        expression = re.compile(rf"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        page = expression.sub(lambda _, new=f"{begin}\n{text}\n{end}": new, page)  # type: ignore[misc]
    return page


def topics() -> str:
    """Return the table of topics, all below ``fedlag/v1/<fleet>/``."""
    lines = [
        f"Below `{ROOT}/<fleet>/`, all at QoS {QOS}:\n",
        "| topic | message | from | to | retained | at most | kept for | what |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for route in ROUTES:
        topic = route.pattern.replace("{", "<").replace("}", ">")
        kept = f"{route.expiry_s} s" if route.expiry_s else "ever"
        retained = "yes" if route.retained else "no"
        lines.append(
            f"| `{topic}` | {_link(route.message)} | {route.sender} | {_reader(route)} | {retained} "
            f"| {route.max_bytes // 1024:,} KiB | {kept} | {route.about} |"
        )
    return "\n".join(lines)


def messages() -> str:
    """Return the fields of every message, and of what messages are made of."""
    kinds: list[type[msgspec.Struct]] = []
    carried: list[type[msgspec.Struct]] = [*(route.message for route in ROUTES), Summary]
    for kind in carried:
        _collect(kind, kinds)
    return "\n\n".join(_section(kind) for kind in kinds)


def _reader(route: Route) -> str:
    if route.sender == "device":
        return "aggregator"
    return "this device" if "{device}" in route.pattern else "every device"


def _link(message: type[Message]) -> str:
    return f"[{message.__name__}](#{message.__name__.lower()})"


def _collect(kind: type[msgspec.Struct], found: list[type[msgspec.Struct]]) -> None:
    if kind in found:
        return
    found.append(kind)
    for field in msgspec.structs.fields(kind):
        for part in _parts(msgspec.inspect.type_info(field.type)):
            if isinstance(part, msgspec.inspect.StructType):
                _collect(part.cls, found)


def _parts(kind: Any) -> list[Any]:
    inner = [getattr(kind, name) for name in ("item_type", "key_type", "value_type") if hasattr(kind, name)]
    return [kind, *(part for it in [*inner, *getattr(kind, "types", ())] for part in _parts(it))]


def _section(kind: type[msgspec.Struct]) -> str:
    about, _, arguments = inspect.cleandoc(kind.__doc__ or "").partition("\n\nArgs:\n")
    said = {
        name: " ".join(text.split())
        for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", arguments, re.MULTILINE)
    }
    lines = [f"### {kind.__name__}", "", " ".join(about.split()), "", "| field | type | what |", "|---|---|---|"]
    for field in msgspec.structs.fields(kind):
        what = said.get(field.name, f"Of the protocol: {PROTOCOL_VERSION}." if field.name == "version" else "")
        optional = "" if field.required or field.name == "version" else ", may be absent"
        what = re.sub(r"``(.+?)``", r"`\1`", what).replace("|", r"\|")
        lines.append(f"| `{field.name}` | {_type(msgspec.inspect.type_info(field.type))}{optional} | {what} |")
    return "\n".join(lines)


def _type(kind: Any) -> str:  # noqa: PLR0911 - a case for each kind of type
    match kind:
        case msgspec.inspect.LiteralType(values=values):
            return " / ".join(f"`{value}`" if value else "empty" for value in values)
        case msgspec.inspect.UnionType(types=types):
            return " or ".join(_type(it) for it in types)
        case msgspec.inspect.VarTupleType(item_type=item):
            return f"list of {_type(item)}"
        case msgspec.inspect.DictType(key_type=key, value_type=value):
            return f"map of {_type(key)} to {_type(value)}"
        case msgspec.inspect.StructType(cls=cls):
            return f"[{cls.__name__}](#{cls.__name__.lower()})"
        case msgspec.inspect.IntType(ge=smallest) if smallest is not None:
            return f"integer from {smallest}"
        case msgspec.inspect.StrType(pattern=pattern) if pattern:
            return f"`{pattern.removeprefix('^').removesuffix(chr(92) + 'Z')}`"
    names = {"StrType": "text", "IntType": "integer", "FloatType": "float", "BoolType": "boolean", "BytesType": "bytes"}
    return names.get(type(kind).__name__, "nothing")


if __name__ == "__main__":
    main()
