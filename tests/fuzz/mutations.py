"""Damage that files meet, and what an attacker would try: deterministic, by a seed."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

# Lengths, counts and offsets at which readers go wrong, little- and big-endian.
_NUMBERS = [
    value.to_bytes(size, order)
    for size in (1, 2, 4, 8)
    for value in (0, 1, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)
    for order in ("little", "big")
]
_WORDS = [
    b"nan",
    b"-1",
    b"1e999",
    b"null",
    b"[]",
    b"{}",
    b'"',
    b"\n",
    b"\0",
    b"../",
    b"\xff\xfe",
    b"9" * 400,
    b"[" * 2000,
]


def mutants(seeds: Sequence[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` damaged versions of the seeds, in turn; each has met one to four accidents."""
    for number in range(count):
        random = np.random.default_rng((seed, number))
        content = bytearray(seeds[number % len(seeds)])
        for _ in range(int(random.choice([1, 1, 2, 4]))):
            accident = _ACCIDENTS[int(random.integers(len(_ACCIDENTS)))]
            accident(content, random, seeds)
        yield bytes(content)


def _place(content: bytearray, random: np.random.Generator) -> int:
    """Anywhere; half of the time near the beginning, where headers are."""
    end = max(1, len(content))
    return int(random.integers(min(end, 64) if random.random() < 0.5 else end))


def _flip(content: bytearray, random: np.random.Generator, _: Sequence[bytes]) -> None:
    for _bit in range(int(random.integers(1, 9))):
        if content:
            content[_place(content, random)] ^= 1 << int(random.integers(8))


def _overwrite(content: bytearray, random: np.random.Generator, _: Sequence[bytes]) -> None:
    number, at = _NUMBERS[int(random.integers(len(_NUMBERS)))], _place(content, random)
    content[at : at + len(number)] = number


def _word(content: bytearray, random: np.random.Generator, _: Sequence[bytes]) -> None:
    word, at = _WORDS[int(random.integers(len(_WORDS)))], _place(content, random)
    content[at : at + int(random.integers(0, 9))] = word


def _noise(content: bytearray, random: np.random.Generator, _: Sequence[bytes]) -> None:
    at, length = _place(content, random), int(random.integers(1, 65))
    content[at : at + length] = random.bytes(length)


def _cut(content: bytearray, random: np.random.Generator, _: Sequence[bytes]) -> None:
    del content[_place(content, random) :]


def _drop(content: bytearray, random: np.random.Generator, _: Sequence[bytes]) -> None:
    at = _place(content, random)
    del content[at : at + int(random.integers(1, 257))]


def _repeat(content: bytearray, random: np.random.Generator, _: Sequence[bytes]) -> None:
    at, length = _place(content, random), int(random.integers(1, 257))
    content[at:at] = content[at : at + length] * int(random.integers(1, 5))


def _splice(content: bytearray, random: np.random.Generator, seeds: Sequence[bytes]) -> None:
    other, at = seeds[int(random.integers(len(seeds)))], _place(content, random)
    content[at:] = other[_place(bytearray(other), random) :]


_Accident = Callable[[bytearray, np.random.Generator, Sequence[bytes]], None]
_ACCIDENTS: list[_Accident] = [_flip, _overwrite, _word, _noise, _cut, _drop, _repeat, _splice]
