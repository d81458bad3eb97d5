"""Damaged and edited files, made of true ones: every change follows from a generator's draws."""

import csv
import io
import json
import re
import struct
import warnings
import zipfile
from random import Random
from typing import Any

import numpy as np
import tomli_w

# In place of a value: what no true file has. Words of JSON and TOML, then of each.
_NUMBERS = ["0", "-1", "1", "2", "0.5", "-0.0", "3.7", "1e400", "-1e400", "1e308", "5e-324",
            "256", "1024", "16384", "9007199254740993", "9223372036854775808"]  # fmt: skip
_LONG = ["1" + "0" * 400, "-1" + "0" * 400, "9" * 5000, '"' + "a" * 5000 + '"']
_TEXTS = ['""', '"0"', '"nan"', '"\\u0000"', '"\\u001b[31m"', '"two\\nlines"', '"é"',
          '"mine.module:Name"', '"os:system"']  # fmt: skip
_NESTED = ["{}", "[]", "[[]]", "[1, 2]", '["a"]', "[" * 3000 + "]" * 3000, "[" * 200 + "]" * 200,
           "[" + "0," * 20000 + "0]", "[true, 1]"]  # fmt: skip
_SHARED = [*_NUMBERS, *_LONG, *_TEXTS, *_NESTED, "true", "false", "0x10", "1_000"]
JSON_TEXTS = [
    *_SHARED, "null", "NaN", "Infinity", "-Infinity", '"\\ud800"', '{"a": 1}', "'a'", "01", "1.",
    '{"a":' * 500 + "1" + "}" * 500, '{"__class__": "x"}', ".5", "+1",
]  # fmt: skip
TOML_TEXTS = [
    *_SHARED, "nan", "inf", "-inf", "{ a = 1 }", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z",
    "0b1", "'''a'''",
]  # fmt: skip
CELLS = [
    "", " ", "a\nb", "a\r", '"', '""', "\0", "\x1b[31m", "é", "\u2028", "a" * 5000, "\ufeff",
    "a", "+", "a+b", "a++b", "../x.png", "/etc/passwd", "a.png", ".hidden.png", "nan", "1e400",
    "-1", "file", "label", "tags", ",", ";", "0", "C:\\x.png", "a/../b.png", "./0.png", "'",
]  # fmt: skip
_HOLE = "@@hole@@"


def flipped(content: bytes, rng: Random) -> bytes:
    """Some bits turned over."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8, 64]) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncated(content: bytes, rng: Random) -> bytes:
    """Cut at some place, often near an end."""
    size = len(content)
    return content[: rng.choice([0, min(1, size), size - min(size, rng.randrange(1, 9)),
                                 rng.randrange(size + 1)])]  # fmt: skip


def patched(content: bytes, rng: Random) -> bytes:
    """A piece left out, doubled, or replaced by noise, zeros or another piece."""
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.choice([0, 1, 4, 16, 200]))
    noise = rng.randbytes(rng.choice([1, 4, 16, 200]))
    there = content[start:end]
    other = content[end : end + len(there)]
    piece = rng.choice([b"", there * 2, noise, bytes(len(there)), other, b"\xff" * len(there)])
    return content[:start] + piece + content[end:]


def noisy(content: bytes, rng: Random) -> bytes:
    """Something else altogether, or more of it."""
    some = rng.randbytes(rng.randrange(300))
    return rng.choice(
        [some, content + some, content * 2, bytes(len(some)), b"\xef\xbb\xbf" + content]
    )


def damaged(content: bytes, rng: Random) -> bytes:
    """Bytes as a disk, a line or a careless editor leaves them."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        content = rng.choice([flipped, flipped, truncated, patched, patched, noisy])(content, rng)
    return content


def edited(value: Any, rng: Random) -> Any:
    """A value of dictionaries and lists with a hole, or with something left out, renamed, doubled.

    The hole is a text that `filled` replaces.
    """
    parts = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    if not parts or rng.random() < 0.1:
        return _HOLE
    key, inner = rng.choice(parts)
    if isinstance(inner, dict | list) and inner and rng.random() < 0.7:
        inner = edited(inner, rng)
    else:
        inner = _HOLE
    kind = rng.random()
    if isinstance(value, list):
        if kind < 0.15:
            return [item for i, item in enumerate(value) if i != key]
        if kind < 0.25:
            return [*value, value[key]]
        if kind < 0.3:
            return [*value, _HOLE]
        return [inner if i == key else item for i, item in enumerate(value)]
    if kind < 0.15:
        return {k: v for k, v in value.items() if k != key}
    if kind < 0.25:
        name = rng.choice(["", "a", str(key) + "s", "x" * 300, "\x1b[31m", "é", "0"])
        return {name if k == key else k: v for k, v in value.items()}
    if kind < 0.3:
        return {**value, rng.choice(["more", "", "__class__"]): _HOLE}
    return {k: inner if k == key else v for k, v in value.items()}


def filled(text: str, rng: Random, texts: list[str]) -> str:
    """Text whose holes have become what no true file has."""
    return re.sub(f'"{_HOLE}"', lambda _: rng.choice(texts), text)


def edited_json(value: Any, rng: Random) -> str:
    """The JSON of a value that was edited."""
    for _ in range(rng.choice([1, 1, 2])):
        value = edited(value, rng) if isinstance(value, dict | list) else value
    text = json.dumps(value, indent=rng.choice([None, 2]))
    if rng.random() < 0.05:
        text = re.sub(r'"(\w+)":', r'"\1": 1, "\1":', text, count=1)  # a name twice
    return filled(text, rng, JSON_TEXTS)


def edited_toml(value: dict[str, Any], rng: Random) -> str:
    """The TOML of tables that were edited."""
    changed: Any = value
    for _ in range(rng.choice([1, 1, 2])):
        changed = edited(changed, rng) if isinstance(changed, dict) else changed
    if not isinstance(changed, dict):
        return rng.choice(TOML_TEXTS)
    names = {re.sub(r"[^\w-]", "_", str(k)) or "_": v for k, v in changed.items()}
    return filled(tomli_w.dumps(names), rng, TOML_TEXTS)


def json_file(content: bytes, rng: Random) -> bytes:
    """A JSON file, damaged or edited."""
    if rng.random() < 0.3:
        return damaged(content, rng)
    return edited_json(json.loads(content), rng).encode()


def lines_file(content: bytes, rng: Random) -> bytes:
    """A file of JSON lines, one or two of them damaged or edited."""
    if rng.random() < 0.2:
        return damaged(content, rng)
    lines = content.splitlines()
    for i in {rng.randrange(len(lines)) for _ in range(rng.choice([1, 1, 2]))}:
        lines[i] = json_file(lines[i], rng).replace(b"\n", b" ")
    return b"\n".join(lines) + rng.choice([b"\n", b"\n", b""])


def csv_file(content: bytes, rng: Random) -> bytes:
    """A table, damaged or edited."""
    if rng.random() < 0.3:
        return damaged(content, rng)
    rows = list(csv.reader(io.StringIO(content.decode())))
    for _ in range(rng.choice([1, 1, 2, 5])):
        row = rng.choice(rows)
        if not row or rng.random() < 0.1:
            row.append(rng.choice(CELLS))
        elif rng.random() < 0.1:
            row.pop()
        else:
            row[rng.randrange(len(row))] = rng.choice([*CELLS, *rng.choice(rows)])
    if rng.random() < 0.2:
        rng.shuffle(rows)
    text = io.StringIO()
    csv.writer(text, lineterminator=rng.choice(["\n", "\r\n", "\r"])).writerows(rows)
    return text.getvalue().encode(rng.choice(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1"]),
                                  "replace")  # fmt: skip


def array(value: np.ndarray, rng: Random) -> np.ndarray:
    """An array of another type or shape, or with values that it should not have."""
    kind = rng.randrange(6)
    if kind == 0:
        types = [np.float64, np.float16, np.int8, np.uint64, np.bool_, np.complex64, "U3", "S2",
                 object, "datetime64[s]", ">i4"]  # fmt: skip
        try:
            with np.errstate(all="ignore"):
                return np.resize(value, value.shape or 1).astype(rng.choice(types))
        except ValueError:  # texts are no numbers
            return np.resize(value, (0,))
    if kind == 1:
        shapes = [(), (0,), (1,), (3,), (0, 3), (2, 2), (1, 1, 1), (2, 3, 4, 5), (1,) * 20]
        return np.resize(value, rng.choice(shapes))
    if kind == 2 and value.size:
        changed = np.array(value)
        values = {"f": [np.nan, np.inf, -np.inf, 1e38, -1.0, 0.0], "i": [-1, 0, 2**31 - 1],
                  "u": [0, 1, 255]}.get(changed.dtype.kind, [0])  # fmt: skip
        with np.errstate(all="ignore"):
            changed.reshape(-1)[rng.randrange(changed.size)] = np.asarray(
                rng.choice(values), "f8" if changed.dtype.kind == "f" else None
            ).astype(changed.dtype)
        return changed
    if kind == 3 and value.ndim:
        return rng.choice([value[:-1], value[::-1], np.concatenate([value, value]), value.T])
    if kind == 4:
        return np.asfortranarray(value)
    return np.full_like(value, 1 if value.dtype.kind not in "US" else "a")


def npy(value: np.ndarray, rng: Random) -> bytes:
    """A file of one array, edited; sometimes its head claims what it does not hold."""
    buffer = io.BytesIO()
    np.save(buffer, array(value, rng) if rng.random() < 0.6 else value, allow_pickle=True)
    content = buffer.getvalue()
    if rng.random() < 0.25:
        claims = [
            (10**9,),
            (10**6, 10**6),
            (2**62, 4),
            (-1,),
            (10**9, 32, 32, 3),
            (1.5,),
            "x",
            None,
        ]
        descr = rng.choice(["|u1", "<f4", "<f8", "|O", "<U9", "<U999999999", "x", "<V8"])
        head = repr({"descr": descr, "fortran_order": rng.choice([False, True, 1]),
                     "shape": rng.choice(claims)})  # fmt: skip
        head = rng.choice([head, head[:-1], "{" * 50, "__import__('os')", head * 200])
        packed = head.encode()[:65000] + b"\n"
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(packed)) + packed + content[-64:]
    return damaged(content, rng) if rng.random() < 0.2 else content


def npz_file(arrays: dict[str, np.ndarray], rng: Random) -> bytes:
    """An archive of arrays with one of them edited, left out, renamed or twice; or damaged."""
    members = {name: io.BytesIO() for name in arrays}
    for name, value in arrays.items():
        np.save(members[name], value)
    contents = [(name, buffer.getvalue()) for name, buffer in members.items()]
    kind, place = rng.random(), rng.randrange(len(contents))
    name = contents[place][0]
    if kind < 0.55:
        contents[place] = name, npy(arrays[name], rng)
    elif kind < 0.65:
        contents.pop(place)
    elif kind < 0.75:
        contents[place] = rng.choice(["", "a", "../x", name + "2", *arrays]), contents[place][1]
    elif kind < 0.8:
        contents.append((rng.choice(["more", *arrays]), rng.choice(contents)[1]))
    buffer = io.BytesIO()
    packing = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", packing) as archive:
        warnings.simplefilter("ignore")  # of names twice
        for member, content in contents:
            with archive.open(f"{member}{rng.choice(['.npy'] * 9 + [''])}", "w") as file:
                file.write(content)
    return damaged(buffer.getvalue(), rng) if kind > 0.75 else buffer.getvalue()
