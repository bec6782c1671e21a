"""Build hook: compiles the CPU kernels into the wheel, or beside the source of an editable installation.

Where there is no compiler the wheel is pure Python, and the same arithmetic runs as torch operators.
"""

import runpy
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = "src/densekit/ops/backends/cpu"


class KernelsHook(BuildHookInterface):
    """Adds densekit_*.so to the wheel."""

    _folder: tempfile.TemporaryDirectory[str] | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        source = Path(self.root) / KERNELS
        if version == "editable":
            folder = source
        else:
            self._folder = tempfile.TemporaryDirectory()
            folder = Path(self._folder.name)
        libraries = runpy.run_path(str(source / "build.py"))["compile_all"](folder)
        if version == "editable" or not libraries:
            return
        build_data["pure_python"] = False
        # No Python headers either: any Python 3 of this platform can load them.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        for library in libraries:
            build_data["force_include"][str(library)] = f"densekit/ops/backends/cpu/{library.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder is not None:
            self._folder.cleanup()  # the wheel has its own copy
