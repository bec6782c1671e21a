"""Who switches a check off for a line says why, on that line."""

import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What mypy and ruff read, then what is left for people.
SUPPRESSION = re.compile(r"#\s*(?:type:\s*ignore\[[\w\s,-]+\]|noqa:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)(?P<rest>.*)")
# Temporary: tests that are being rewritten together with the code they test.
LATER = (ROOT / "tests" / "models", ROOT / "tests" / "ops")


def without_reason(file: Path) -> list[str]:
    """The suppressions of a file behind which fewer than two words stand."""
    with tokenize.open(file) as source:
        comments = [token for token in tokenize.generate_tokens(source.readline) if token.type == tokenize.COMMENT]
    matches = [(token, match) for token in comments if (match := SUPPRESSION.match(token.string))]
    return [f"{file.name}:{token.start[0]}" for token, match in matches if len(re.findall(r"\w+", match["rest"])) < 2]


def test_every_suppressed_check_has_its_reason_beside_it() -> None:
    files = [file for folder in ("src", "tests") for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 400
    checked = [file for file in files if not any(file.is_relative_to(folder) for folder in LATER)]
    assert [each for file in checked for each in without_reason(file)] == []


@pytest.mark.parametrize(
    ("comment", "missing"),
    [
        ("# type: ignore[arg-type]", True),
        ("# type: ignore[arg-type,misc]  # why", True),
        ("# noqa: F401", True),
        ("# noqa: F401, E731", True),
        ("# type: ignore[arg-type]  # torch types it wider", False),
        ("# noqa: F401 - its import registers it", False),
        ("# an ordinary comment", False),
    ],
)
def test_a_suppression_without_a_reason_is_noticed(comment: str, missing: bool, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(f"x = 1  {comment}\n")
    assert without_reason(tmp_path / "code.py") == (["code.py:1"] if missing else [])
