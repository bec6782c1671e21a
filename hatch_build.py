"""Build hook: compiles the native kernels into the wheel, or beside the source of an editable installation.

Where there is no compiler the wheel is pure Python, and the same arithmetic runs as torch operators.
"""

import runpy
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = "src/densekit/ops/native"


class Kernels(BuildHookInterface):
    """Adds densekit_*.so to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        source = Path(self.root) / NATIVE
        folder = source if version == "editable" else Path(tempfile.mkdtemp())
        libraries = runpy.run_path(str(source / "compile.py"))["compile_all"](folder)
        if version == "editable" or not libraries:
            return
        build_data["pure_python"] = False
        # No Python headers either: any Python 3 of this platform can load them.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        for library in libraries:
            build_data["force_include"][str(library)] = f"densekit/ops/native/{library.name}"
