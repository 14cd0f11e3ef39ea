"""Damage for the inputs of `fuzz.py`: bytes of any file, and values and lines of text."""

from __future__ import annotations

import re

import numpy as np

#: Numbers that headers must survive, little and big-endian at 1, 2, 4 and 8 bytes.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, (1 << 63) - 1)
#: Values that take the place of one in a text.
_VALUES = (
    "0", "-1", "1e999", "-1e999", "NaN", "Infinity", "null", "true", '""', "[]", "{}", "9" * 400, "1e-320",
    "2147483648",
    "18446744073709551616", '"\\ud800"', '"../../x"', "\x00", "[" * 2000, '{"a":' * 500, "'", '"', ",", ":", "\ufeff",
    "../..", "\x1b[31m", "[/red]", "!!python/object/apply:os.system", "*a", "&a [*a]", "2026-11-26", "0x10", "\u202e",
)  # fmt: skip
_TOKEN = re.compile(r"[-+.\w]+|\"[^\"]*\"")


def mutate(data: bytes, other: bytes, rng: np.random.Generator, *, is_text: bool) -> bytes:
    """One to four kinds of damage. other: another input, of which a part may be spliced in. is_text: values and lines
    are changed, too."""
    mutated = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        choices = [*_OF_BYTES, *(_OF_TEXT * 2 if is_text else [])]
        mutated = bytearray(choices[int(rng.integers(len(choices)))](mutated, other, rng))
        if not mutated:
            break
    return bytes(mutated)


def _span(data: bytearray, rng: np.random.Generator) -> tuple[int, int]:
    """Start and stop of a random part of the data, mostly short: every second one within the first 256 bytes, where
    headers are."""
    limit = len(data) if rng.random() < 0.5 else min(len(data), 256)
    start = int(rng.integers(max(1, limit)))
    length = int(2 ** rng.uniform(0, np.log2(max(2, len(data) - start))))
    return start, min(len(data), start + length)


def _flip(data: bytearray, _other: bytes, rng: np.random.Generator) -> bytearray:
    for _ in range(int(rng.integers(1, 9))):
        at, _stop = _span(data, rng)
        data[at] ^= 1 << int(rng.integers(8))
    return data


def _number(data: bytearray, _other: bytes, rng: np.random.Generator) -> bytearray:
    at, _stop = _span(data, rng)
    width = int(rng.choice((1, 2, 4, 8)))
    value = _NUMBERS[int(rng.integers(len(_NUMBERS)))] & ((1 << 8 * width) - 1)
    data[at : at + width] = value.to_bytes(width, "little" if rng.random() < 0.5 else "big")
    return data


def _noise(data: bytearray, _other: bytes, rng: np.random.Generator) -> bytearray:
    start, stop = _span(data, rng)
    data[start:stop] = rng.bytes(stop - start)
    return data


def _zero(data: bytearray, _other: bytes, rng: np.random.Generator) -> bytearray:
    start, stop = _span(data, rng)
    data[start:stop] = bytes(stop - start)
    return data


def _delete(data: bytearray, _other: bytes, rng: np.random.Generator) -> bytearray:
    start, stop = _span(data, rng)
    del data[start:stop]
    return data


def _repeat(data: bytearray, _other: bytes, rng: np.random.Generator) -> bytearray:
    start, stop = _span(data, rng)
    part = data[start:stop]
    data[stop:stop] = part * min(int(rng.integers(1, 9)), 1 + (1 << 18) // len(part))
    return data


def _cut(data: bytearray, _other: bytes, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(len(data)))]


def _splice(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    start, stop = _span(data, rng)
    first, last = _span(bytearray(other), rng)
    data[start:stop] = other[first:last]
    return data


def _value(data: bytearray, _other: bytes, rng: np.random.Generator) -> bytearray:
    text = data.decode("utf-8", "surrogateescape")
    tokens = list(_TOKEN.finditer(text))
    if not tokens:
        return data
    token = tokens[int(rng.integers(len(tokens)))]
    value = _VALUES[int(rng.integers(len(_VALUES)))]
    return bytearray((text[: token.start()] + value + text[token.end() :]).encode("utf-8", "replace"))


def _lines(data: bytearray, _other: bytes, rng: np.random.Generator) -> bytearray:
    lines = bytes(data).split(b"\n")
    a, b = (int(rng.integers(len(lines))) for _ in range(2))
    match int(rng.integers(3)):
        case 0:
            lines[a], lines[b] = lines[b], lines[a]
        case 1:
            del lines[a]
        case _:
            lines.insert(a, lines[b])
    return bytearray(b"\n".join(lines))


_OF_BYTES = [_flip, _number, _noise, _zero, _delete, _repeat, _cut, _splice]
_OF_TEXT = [_value, _lines]
