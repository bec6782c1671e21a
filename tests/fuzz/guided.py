"""Coverage-guided: `python -m tests.fuzz.guided READER [-max_total_time=60] [CORPUS]`, or `make fuzz` for all.

Python code is instrumented, and libFuzzer keeps what reaches a new line of it; C decoders are seen from outside. What
ends in an error that is not promised is written to crash-*; give that file instead of a corpus to see it again.
"""

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

    # Ten seconds and two gigabytes, torch included, are what one input may take.
    atheris.Setup([sys.argv[0], "-timeout=10", "-rss_limit_mb=2048", *options, str(corpus)], try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
