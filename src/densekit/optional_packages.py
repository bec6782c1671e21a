"""What exporting and exported files need beside densekit's own dependencies."""

from importlib.util import find_spec

from densekit.errors import InvalidInput


def need(what: str, *packages: str) -> None:
    """Raises InvalidInput that names the missing ones, and how to get them."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise InvalidInput(f"{what} needs {' and '.join(missing)}, an extra: pip install 'densekit[export]'")
