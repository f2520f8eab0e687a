"""Mutators: from a sound file's bytes and a `Random` to the bytes of a broken, huge or hostile one.

Each kind of file has the mutators that know no format (`BYTES`) and those that know its own, which
get past the checks at the front: a chunk that is changed here has a right checksum. All that is
random comes from the `Random`, so one seed always gives one and the same input.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

Mutator = Callable[[bytes, Random], bytes]

MIB = 2**20
EXTREMES = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
SIZES = (0, 1, 7, 4096, 8192, 30_000, 65_535, 100_000, 2**31 - 1)


def mutate(data: bytes, own: Sequence[Mutator], random: Random) -> bytes:
    """One to three mutations, more than half of them by the format's own mutators."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        choice = random.choice(own if own and random.random() < 0.6 else BYTES)
        data = choice(data, random)
    return data


# Any file


def flip_bits(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8, 64)) if data else 0):
        changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def set_number(data: bytes, random: Random) -> bytes:
    """An extreme number of 1 to 8 bytes somewhere, most often near the front: a wrong length."""
    size = random.choice((1, 2, 4, 8))
    order = random.choice(("little", "big"))
    reach = random.choice((len(data), 64, 512))
    at = random.randrange(max(1, min(reach, len(data) - size + 1)))
    number = random.choice(EXTREMES) % 256**size
    return data[:at] + number.to_bytes(size, order) + data[at + size :]


def truncate(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _span(data: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.choice((1, 4, 16, 100, 1000)))


def remove(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    return data[:start] + data[end:]


def repeat(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    return data[:start] + data[start:end] * random.choice((2, 3, 100)) + data[end:]


def move(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    rest = data[:start] + data[end:]
    at = random.randrange(len(rest) + 1)
    return rest[:at] + data[start:end] + rest[at:]


def overwrite(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    fill = random.choice((b"\0", b"\xff", None))
    size = end - start
    return data[:start] + (fill * size if fill else random.randbytes(size)) + data[end:]


def append(data: bytes, random: Random) -> bytes:
    return data + random.choice((b"\0" * 1000, data, random.randbytes(50)))


def other_file(data: bytes, random: Random) -> bytes:
    """The start of some other kind of file, alone or before the data."""
    heads = (b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"II*\0", b"PK\3\4", b"\x93NUMPY\1\0")
    head = random.choice((*heads, b"\0" * 128 + b"DICM", b"GIF89a", b"%PDF-1.4", b"\x1f\x8b"))
    return random.choice((head, head + data))


BYTES: tuple[Mutator, ...] = (
    *(flip_bits, set_number, truncate, remove, repeat, move, overwrite, append),
    *(flip_bits, set_number, truncate, other_file),
)

# Text: words and cells

_WORDS = r"""
0 -1 1e400 nan inf -inf 1_000 ٣ 0x10 true null TRUE NaN ' " \ # =1+1 ; , a/b a;b /dev/zero CON
.. . ~ ./ //x C:\x \\host\x /etc/passwd ../../etc/passwd ../outside/secret.png out/secret.png loop
loop/x images
"""
ODD_WORDS = (
    *_WORDS.split(),
    *("", " ", "\0", "\x1b[31m", "é\u202eb", "a\nb", "9" * 400, "1" * 5000, "a" * 70_000),
)


def odd_word(text: str, random: Random) -> str:
    """A word or a number replaced by an odd one."""
    words = list(re.finditer(r"[\w.+-]+", text))
    if not words:
        return text
    word = random.choice(words)
    return text[: word.start()] + random.choice(ODD_WORDS) + text[word.end() :]


def odd_lines(text: str, random: Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at = random.randrange(len(lines))
    how = random.choice(("repeat", "remove", "swap", "blank", "many"))
    line = lines[at]
    if how == "swap":
        other = random.randrange(len(lines))
        lines[at], lines[other] = lines[other], line
    else:
        lines[at] = {
            "repeat": line * 2,
            "remove": "",
            "blank": "\n",
            "many": line * (MIB // (len(line) + 1)),
        }[how]
    return "".join(lines)


def odd_marks(text: str, random: Random) -> str:
    """A mark of the format doubled, removed or replaced, once or everywhere."""
    marks = sorted(set(text) & set(",;\t\"'[]{}()=:\n#/."))
    if not marks:
        return text
    old, new = random.choice(marks), random.choice(",;\t\"'[]{}=\0\r\n")
    return text.replace(old, random.choice((new, old * 2, "")), random.choice((1, 2, -1)))


def _text(change: Callable[[str, Random], str]) -> Mutator:
    def mutator(data: bytes, random: Random) -> bytes:
        text = change(data.decode("utf-8", "surrogateescape"), random)
        return text.encode("utf-8", "surrogateescape")

    return mutator


def recode(data: bytes, random: Random) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(random.choice(("utf-16", "utf-32", "utf-8-sig", "cp1252")), "replace")


TEXT: tuple[Mutator, ...] = (*map(_text, (odd_word, odd_word, odd_lines, odd_marks)), recode)


def nested_csv(data: bytes, random: Random) -> bytes:
    """One huge row, one huge cell, or a quote that is never closed."""
    huge = (b"," * 200_000 + b"\n", b'"' + b"x" * 300_000 + b'"\n', b'"open,', b'a"b"c,\n')
    lines = data.splitlines(keepends=True)
    lines.insert(random.randrange(len(lines) + 1), random.choice(huge))
    return b"".join(lines)


def nested_toml(data: bytes, random: Random) -> bytes:
    depth = random.choice((5, 200, 5_000, 100_000))
    value = random.choice(
        (
            "[" * depth + "]" * depth,
            "{a=" * depth + "1" + "}" * depth,
            "9" * depth,
            "1" + "0" * depth,
        )
    )
    tables = ("[" + ".".join("a" * depth) + "]", "\n".join(f"[a.b{n}]" for n in range(depth)))
    key = random.choice(("classes", "root", "labels", "spacing", "name", "odd"))
    line = random.choice((f"{key} = {value}", *tables, "x" * depth, f'{key} = "{"y" * depth}"'))
    return random.choice((line.encode() + b"\n" + data, data + b"\n" + line.encode()))


_VALUES = r"""
1 -1 0.0 inf nan true "" "\u0000" [] {} 1979-05-27 [[1]] [0,1] 1e308 5e-324 "a\tb" ["a"] ["a","b"]
["a","a"] "../outside" "/" "/dev" "out" "loop" "cases.csv" "all.npz" "secret.npz" "{label}/{label}"
"**/**" "**/*" "*/*/*" "{patient}*{key}" "../*" "/*"
"""
ODD_TOML = (*_VALUES.split(), '"' + "*" * 40 + '"', '"' + "{a}" * 30 + '"')


def odd_toml(data: bytes, random: Random) -> bytes:
    lines = data.decode("utf-8", "replace").splitlines()
    at = random.choice([n for n, line in enumerate(lines) if "=" in line] or [0])
    key = lines[at].partition("=")[0] if lines else "odd"
    lines[at : at + 1] = [f"{key}= {random.choice(ODD_TOML)}"]
    return "\n".join(lines).encode("utf-8", "replace")


# JSON

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, 5e-324, float("nan"), float("inf")),
    *("", [], {}, [[]], [0] * 1000, {"a": {"b": 1}}, "x" * 10_000, "0" * 64),
    *("../../x", "\0", "\u202e", "a\nb"),
)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def odd_json(text: str, random: Random) -> str:
    """A value replaced, removed, doubled or buried; or another key."""
    try:
        whole = json.loads(text)
        places = list(_places(whole))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return text
    if not places:
        return text
    holder, key = random.choice(places)
    how = random.choice(("replace", "replace", "nearby", "remove", "bury", "rename"))
    if how == "replace":
        holder[key] = random.choice(ODD_VALUES)
    elif how == "nearby" and isinstance(holder[key], int | float):
        holder[key] = holder[key] * random.choice((-1, 2, 1000, 0.5)) + random.choice((0, 1, -1))
    elif how == "remove" or isinstance(holder, list):
        del holder[key]
    elif how == "rename":
        holder[random.choice((*map(str, holder), "odd", ""))] = holder.pop(key)
    else:
        depth = random.choice((3, 100, 100_000))
        mark = "[" * depth + "]" * depth
        holder[key] = "@bury@"
        return json.dumps(whole).replace('"@bury@"', mark)
    return json.dumps(whole)


def twice_json(text: str, random: Random) -> str:
    return text.replace("{", random.choice(('{"a": 1, "a": 2, ', '{"format": 1, ', "{{")), 1)


JSON: tuple[Mutator, ...] = (*map(_text, (odd_json, odd_json, odd_json, twice_json, odd_word)),)


def odd_safetensors(data: bytes, random: Random) -> bytes:
    """A header whose JSON, or the description within it, is changed, with its length right."""
    size = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + size].decode("utf-8", "replace"), data[8 + size :]
    try:
        whole = json.loads(header)
        if random.random() < 0.6:
            told = whole["__metadata__"]["hydrakit"]
            whole["__metadata__"]["hydrakit"] = odd_json(told, random)
            header = json.dumps(whole)
        else:
            header = odd_json(header, random)
    except (ValueError, KeyError, TypeError, RecursionError):
        header += " "
    text = header.encode("utf-8", "replace")
    size = len(text) + random.choice((0, 0, 0, 0, 1, -1))
    return max(size, 0).to_bytes(8, "little") + text + rest


# ZIP


def unzipped(data: bytes) -> list[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # it was mutated before
        return []


def zipped(members: list[tuple[str, bytes]], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", how) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, how)  # always of the same date
    return file.getvalue()


def zip_members(data: bytes, random: Random) -> bytes:
    """A member removed, repeated, renamed, packed in another way, or turned into a bomb."""
    members = unzipped(data)
    if not members:
        return data
    at = random.randrange(len(members))
    name, content = members[at]
    names = ("../../x.npy", "/etc/x.npy", "/", "a" * 60_000, "b\0.npy", "images.npy", "é.npy")
    match random.choice(("remove", "repeat", "rename", "bomb", "many", "pack")):
        case "remove":
            del members[at]
        case "repeat":
            members.append((name, random.choice((content, b"", content[::-1]))))
        case "rename":
            members[at] = (random.choice(names), content)
        case "bomb":
            members[at] = (name, content + b"\0" * random.choice((25 * MIB, 80 * MIB)))
        case "many":
            members += [(f"{name}{number}", b"") for number in range(2000)]
        case "pack":
            return zipped(members, random.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 0)))
    return zipped(members)


def zip_fields(data: bytes, random: Random) -> bytes:
    """Another number in the directory or in a member's header: sizes, flags, methods, offsets."""
    marks = [found.start() for found in re.finditer(b"PK(\1\2|\3\4|\5\6)", data)]
    if not marks:
        return data
    at = random.choice(marks) + random.randrange(4, 46)
    size = random.choice((2, 4))
    return (
        data[:at]
        + (random.choice(EXTREMES) % 256**size).to_bytes(size, "little")
        + data[at + size :]
    )


def zip_inner(own: Sequence[Mutator]) -> Mutator:
    """A member mutated by the mutators of its own format."""

    def mutator(data: bytes, random: Random) -> bytes:
        members = unzipped(data)
        if not members:
            return data
        at = random.randrange(len(members))
        members[at] = (members[at][0], mutate(members[at][1], own, random))
        return zipped(members)

    return mutator


XML_HEAD = b'<?xml version="1.0"?>'
LAUGHS = XML_HEAD + (
    b'<!DOCTYPE a [<!ENTITY l0 "ha">%s]><a>&l20;</a>'
    % b"".join(b'<!ENTITY l%d "&l%d;&l%d;&l%d;">' % (n, n - 1, n - 1, n - 1) for n in range(1, 21))
)
OUTSIDE = XML_HEAD + b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'


def odd_xml(data: bytes, random: Random) -> bytes:
    """A bomb of entities, an entity from outside, deep nesting, or cells at wrong places."""
    cells = (
        b'r="XFD1048576"',
        b'r="A0"',
        b'r="ZZZZZZ99999999999"',
        b'r=""',
        b't="s"',
        b't="e"',
        b't="d"',
    )
    depth = random.choice((100, 3_000, 100_000))
    match random.choice(("laughs", "outside", "deep", "cell", "cell", "rows")):
        case "laughs":
            return LAUGHS
        case "outside":
            return OUTSIDE
        case "deep":
            return data.replace(b"<v>", b"<v>" + b"<v>" * depth, 1)
        case "rows":
            return data.replace(b"</sheetData>", b'<row r="1048576"/>' * depth + b"</sheetData>")
    return re.sub(rb'r="[A-Z]+[0-9]+"', random.choice(cells), data, count=random.choice((1, 5)))
