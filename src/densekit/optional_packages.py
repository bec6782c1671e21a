"""Packages that only some commands need: each belongs to an extra of the distribution."""

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from densekit.errors import InvalidInput


def missing_of(packages: Iterable[str]) -> list[str]:
    """Those that are not installed."""
    return [package for package in packages if find_spec(package) is None]


def require_package(what: str, *packages: str, extra: str = "export") -> None:
    """Raises InvalidInput where `what` cannot work: names the missing packages, and the extra that has them."""
    missing = missing_of(packages)
    if missing:
        raise InvalidInput(f"{what} needs {' and '.join(missing)}, an extra: pip install 'densekit[{extra}]'")


def import_package(what: str, package: str, *, extra: str) -> ModuleType:
    """Imports a package; raises InvalidInput where `what` cannot work as it is missing, or broken."""
    require_package(what, package, extra=extra)
    try:
        return import_module(package)
    except ImportError as error:
        raise InvalidInput(
            f"{what} needs {package}, which cannot be imported ({error}); install it again: pip install "
            f"--force-reinstall {package}"
        ) from error
