"""Rewrite what docs/ says in the code's own words: topics and messages, the manifest's fields and schema, what is covered.

Usage: ``scripts/write-docs``. What stands between a pair of marks comes from ``wire.topics.ROUTES`` and from the types and
docstrings of messages and manifest, or from the models that tests/export holds against autograd; all else on a page is written by hand. A test compares the pages with the code.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import msgspec

from tests.export.cases import CASES
from wire.manifest import ModelManifest
from wire.messages import PROTOCOL_VERSION, Message, Summary
from wire.topics import QOS, ROOT, ROUTES, Route

DOCS = Path(__file__).resolve().parent.parent / "docs"
PROTOCOL, MANIFEST, EXPORT = DOCS / "protocol.md", DOCS / "manifest.md", DOCS / "export.md"
SCHEMA = DOCS / "manifest.schema.json"


def main() -> None:
    """Rewrite the pages."""
    for page in (PROTOCOL, MANIFEST, EXPORT):
        page.write_text(renewed(page.read_text()))
    SCHEMA.write_bytes(schema())


def renewed(page: str) -> str:
    """Return the page with its generated parts as the code has them now."""
    for name, write in {
        "topics": topics,
        "messages": messages,
        "fields": manifest_fields,
        "coverage": coverage,
    }.items():
        begin, end = f"<!-- {name}: written by scripts/write-docs -->", f"<!-- end of {name} -->"
        expression = re.compile(rf"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if begin in page:
            before, behind = expression.split(page)
            page = f"{before}{begin}\n{write()}\n{end}{behind}"
    return page


def schema() -> bytes:
    """Return the manifest's JSON schema, draft 2020-12."""
    text = msgspec.json.encode(msgspec.json.schema(ModelManifest)).decode().replace(r"\\Z", "$")  # as ECMAScript has it
    found: dict[str, Any] = msgspec.json.decode(text)
    for definition in found["$defs"].values():
        definition["description"] = inspect.cleandoc(definition["description"]).partition("\n\n")[0]
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def manifest_fields() -> str:
    """Return the fields of the manifest, and of what it is made of."""
    kinds: list[type[msgspec.Struct]] = []
    _collect(ModelManifest, kinds)
    return "\n\n".join(_section(kind) for kind in kinds)


def coverage() -> str:
    """Return the table of the models that are exported and held against autograd, and their operators."""
    lines = ["| what is trained | for | logits |", "|---|---|---|"]
    for case in CASES.values():
        model = case.build()
        logits = "(batch, " + ", ".join(map(str, model.output_shape)) + ")"
        about = case.about[0].upper() + case.about[1:]
        lines.append(f"| {about} | {model.loss} | {logits} |")
    return "\n".join(lines)


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
