"""Compiles the primitives: at installation (hatch_build.py), or by hand with `python build.py [FOLDER]`.

Standard library alone, as it runs before anything is installed. One shared library for each instruction set; which of
them a process loads is decided when it runs. No torch headers, so that any torch works with any build.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parent / "kernels.cpp"
FILES = tuple(sorted(path.name for path in SOURCE.parent.iterdir() if path.suffix in (".cpp", ".h", ".hpp")))
# Contraction is fused multiply-add, no more: NaN and infinity behave as torch's (no -ffast-math).
_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
_X86 = {
    "avx512": ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
    "baseline": [],
}


def fingerprint() -> str:
    """Of the sources; a library carries that of the sources it was made of."""
    return hashlib.sha256(b"".join((SOURCE.parent / name).read_bytes() for name in FILES)).hexdigest()[:16]


def compiler() -> str | None:
    """$CXX, or the first of the usual ones on the path."""
    return next(filter(None, map(shutil.which, filter(None, [os.environ.get("CXX"), "g++", "clang++", "c++"]))), None)


def compile_all(folder: Path, extra: tuple[str, ...] = ()) -> list[Path]:
    """The libraries this machine's compiler could make, in `folder`; without a compiler none, which is no error."""
    tool = compiler()
    if tool is None or sys.platform == "win32":
        return []
    sets = _X86 if platform.machine().lower() in ("x86_64", "amd64") else {"baseline": []}
    folder.mkdir(parents=True, exist_ok=True)
    made, refused = [], {}
    for name, flags in sets.items():
        path = folder / f"densekit_{name}.so"
        flags = [*_FLAGS, f'-DSOURCES="{fingerprint()}"', *flags, *extra]
        # Without OpenMP (Apple's clang) the library is single-threaded, and still worth having.
        error = _compile(tool, [*flags, "-fopenmp"], path)
        if error is None or _compile(tool, flags, path) is None:
            made.append(path)
        if error is not None:
            refused[name] = error
    if refused:
        names, error = ", ".join(refused), next(iter(refused.values()))
        instead = "some run on one thread, or not at all" if made else "torch's operators do their work, more slowly"
        print(f"densekit: {tool} refused kernels ({names}), so {instead}: {error}", file=sys.stderr)
    return made


def _compile(tool: str, flags: list[str], path: Path) -> str | None:
    """None if it made the library, else what the compiler says."""
    # To a name of its own, then renamed: two installations at once, or one that is killed, leave no half a library.
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".so.part")
    os.close(handle)
    try:
        done = subprocess.run([tool, *flags, str(SOURCE), "-o", temporary], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.splitlines()
            said = [line for line in lines if "error" in line] or lines[-1:] or [f"exit status {done.returncode}"]
            return said[0]
        os.chmod(temporary, 0o755)
        os.replace(temporary, path)
        return None
    finally:
        Path(temporary).unlink(missing_ok=True)


if __name__ == "__main__":
    for library in compile_all(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCE.parent):
        print(library)
