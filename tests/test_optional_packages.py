"""A missing optional package is named with its extra, a broken one with its reason."""

import sys
from pathlib import Path

import pytest

from densekit.errors import InvalidInput
from densekit.optional_packages import import_package


def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(InvalidInput, match=r"x\.h5 needs no_such_package, an extra: pip install 'densekit\[keras\]'"):
        import_package("x.h5", "no_such_package", extra="keras")


def test_a_broken_package_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("raise ImportError('libhdf5 is old')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidInput, match=r"broken_package, which cannot be imported \(libhdf5 is old\)"):
        import_package("x.h5", "broken_package", extra="keras")
    assert "broken_package" not in sys.modules


def test_a_package_that_is_there_is_given() -> None:
    assert import_package("x.json", "json", extra="keras").dumps([1]) == "[1]"
