"""Whether a schema may be sent with `strict: true`.

OpenAI refuses strict schemas with optional or additional properties. Such a schema is sent
without `strict`; the gateway validates the output in any case.
"""

from typing import Any, cast


def is_strict(schema: object) -> bool:
    """Every object closed, with all of its properties required, however deep."""
    if isinstance(schema, list):
        return all(is_strict(each) for each in cast("list[object]", schema))
    if not isinstance(schema, dict):
        return True
    node = cast("dict[str, Any]", schema)
    properties = node.get("properties")
    if isinstance(properties, dict) or node.get("type") == "object":
        names = set(cast("dict[str, object]", properties or {}))
        if node.get("additionalProperties") is not False or names != set(node.get("required") or ()):
            return False
    return all(is_strict(each) for each in node.values())
