"""What a line of a client has to be: a message of JSON-RPC 2.0. Pure."""

from __future__ import annotations

import json
import math
import sys
from typing import Any, cast

PARSE_ERROR, INVALID_REQUEST, INTERNAL_ERROR = -32700, -32600, -32603

Message = dict[str, Any]
# What names a request.
RequestId = str | int | float


def parse(text: str, *, strict: bool = False) -> object:
    """The JSON value in `text`; `strict` takes no `NaN` and no `Infinity`, which are no JSON (RFC 8259 §6).

    Raises `ValueError`, or `RecursionError` for one that is nested too deeply.
    """
    constant = _refuse_constant if strict else None
    try:
        return json.loads(text, parse_constant=constant)
    except json.JSONDecodeError:
        raise
    except ValueError:
        # An integer may have more digits than Python reads. Its message passes as it is.
        return json.loads(text, parse_constant=constant, parse_int=_number)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _number(digits: str) -> float:
    return int(digits) if len(digits) <= sys.int_info.str_digits_check_threshold else math.inf


def fault_of(message: object) -> str | None:
    """What keeps a JSON value from being a message (JSON-RPC 2.0 §4, §5)."""
    if isinstance(message, list):
        return "MCP has no batches"
    if not isinstance(message, dict):
        return "a message is an object"
    message = cast("Message", message)
    if message.get("jsonrpc") != "2.0":
        return 'a message has "jsonrpc": "2.0"'
    if "method" not in message:
        return None if "result" in message or "error" in message else "a message has a method, a result or an error"
    if not isinstance(message["method"], str):
        return "method is no string"
    if not isinstance(message.get("params", {}), dict):
        return "params is no object"
    return "id is neither a string nor a number" if "id" in message and id_of(message) is None else None


def id_of(message: object) -> RequestId | None:
    """The id that a message can be answered by, None where it has none."""
    request_id = table(message).get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, str | int | float):
        return None
    # A number may be too large for JSON to say it again.
    return None if isinstance(request_id, float) and not math.isfinite(request_id) else request_id


def table(value: object) -> dict[str, Any]:
    """`value`, if it is a JSON object; else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def header_text(value: object) -> str | None:
    """`value`, if it can stand in a header."""
    return value if isinstance(value, str) and value and value.isascii() and value.isprintable() else None
