"""Whether what an app says with a method is what the method takes: one answer for the API's door and for every flow."""

import re
from collections.abc import Mapping

from channels.contract import Method, Param


def mistake_in(params: Mapping[str, str], method: Method) -> str:
    """The first mistake, as `params.NAME: what is wrong`; empty if there is none."""
    takes = {param.name: param for param in method.params}
    for name in params:
        if name not in takes:
            possible = ", ".join(takes) or "none"
            return f"params.{name[:64]}: {method.name} does not take it; possible: {possible}"
    for param in method.params:
        given = param.name in params
        wrong = _wrong(params[param.name], param) if given else _missing(param)
        if wrong:
            return f"params.{param.name}: {wrong}"
    return ""


def _missing(param: Param) -> str:
    return f"needed: {param.about}" if param.required else ""


def _wrong(value: object, param: Param) -> str:
    if value is None:
        return f"must not be null: {param.about}"
    if not isinstance(value, str) or not value.isprintable():  # not printable: also U+0000 and lone surrogates
        return "must be text without control characters"
    if not 1 <= len(value) <= param.chars_max:
        return f"must have 1 to {param.chars_max} characters"
    if param.choices and value not in param.choices:
        return f"must be one of {', '.join(param.choices)}"
    if param.pattern and not re.fullmatch(param.pattern, value):
        return f"is not {param.about}"
    return ""
