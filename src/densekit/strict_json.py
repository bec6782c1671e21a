"""JSON as its standard has it, which knows no NaN and no infinity: the one way that densekit writes it."""

import json
from typing import Any


def dumps(value: Any, **options: Any) -> str:
    """`json.dumps`, with its options. Raises ValueError for numbers that are not finite: None stands for undefined."""
    return json.dumps(value, allow_nan=False, **options)
