"""Coverage-guided: `python -m tests.fuzz.guided READER [-max_total_time=60] [CORPUS]`, or `make fuzz` for all.

Python code is instrumented, and libFuzzer keeps what reaches a new line of it; C decoders are seen from outside. What
ends in an error that is not promised is written to crash-*; give that file instead of a corpus to see it again.
"""

import resource
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["densekit", "PIL", "pydicom", "yaml", "safetensors"]):
    from tests.fuzz.readers import READERS


def main() -> None:
    """Begins with the reader's sound inputs."""
    name, *options = sys.argv[1:]
    reader = READERS[name]
    corpus = Path(tempfile.mkdtemp(prefix=f"densekit-fuzz-{name}-"))
    for number, content in enumerate(reader.seeds()):
        (corpus / str(number)).write_bytes(content)

    def try_one(content: bytes) -> None:
        with suppress(*reader.errors):
            reader.read(content)

    # Ten seconds, and a gigabyte more than this process has with torch imported, are what one input may take.
    memory = _resident_mebibytes() + 1024
    atheris.Setup([sys.argv[0], "-timeout=10", f"-rss_limit_mb={memory}", *options, str(corpus)], try_one)
    atheris.Fuzz()


def _resident_mebibytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() >> 20


if __name__ == "__main__":
    main()
