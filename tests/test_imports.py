"""Which modules of the package import which: one way, and nothing is hidden inside a function."""

import ast
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import densekit

PACKAGE = Path(densekit.__file__).parent


def modules() -> dict[str, Path]:
    """Every module's name and file."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def is_for_types(node: ast.AST) -> bool:
    """`if TYPE_CHECKING:`, whose body never runs: lazy packages name there what they look up on first use."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(node: ast.AST, known: set[str]) -> Iterator[str]:
    """The package's modules that `node` imports, at the top, in classes and in functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom):
            assert not child.level, "imports name the whole module"
            for alias in child.names:
                names = (f"{child.module}.{alias.name}", str(child.module))
                yield from [name for name in names if name in known][:1]
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names if alias.name in known)
        elif is_for_types(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield from imports(other, known)
        else:
            yield from imports(child, known)


def graph() -> dict[str, set[str]]:
    """Module -> the modules that it imports."""
    files = modules()
    return {name: set(imports(ast.parse(path.read_bytes()), set(files))) for name, path in files.items()}


def circle_in(edges: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, the first one again at the end; empty where there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle_is_open_or_hidden_in_a_function() -> None:
    assert not circle_in(graph())


def test_a_circle_hidden_in_a_function_is_found() -> None:
    known = {"densekit.a", "densekit.b"}
    a = ast.parse("import densekit.b")
    b = ast.parse("def work():\n    from densekit.a import x\n    return x")
    assert circle_in({"densekit.a": set(imports(a, known)), "densekit.b": set(imports(b, known))})


def test_imports_for_types_alone_do_not_count() -> None:
    tree = ast.parse("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from densekit import a\n")
    assert not set(imports(tree, {"densekit.a"}))


def test_every_module_has_a_place_in_the_layers() -> None:
    """import-linter overlooks what its list of layers does not name."""
    settings = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    placed = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    assert placed == {".".join(name.split(".")[:2]) for name in modules() if "." in name} - {"densekit.__main__"}
