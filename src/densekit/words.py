"""How messages put things, in every room."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """1 channel, 3 channels, 1,000 classes."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
