"""Mutators of what a run's folder holds: plans, weight files, and the folder itself."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.mutators import JSON, TEXT, Mutator, odd_safetensors
from hydrakit.storage.digests import Digests
from hydrakit.storage.files import MAX_WEIGHTS

DEPTHS = (100, 5_000, 300_000)
NAMES = (
    *("../../outside", "/etc/passwd", "..", ".", "a/b", "a\\b", "C:\\x", "~", "", "A", "é", "a\0b"),
    *("a\x1b[31m", "a\n", "\u202ea", "x" * 64, "x" * 65, "x" * 100_000, "-rf", "con", "alpha "),
)
NUMBERS = (0, -1, 1, 2**20, 2**31, 2**53, 2**63, 10**30, 10**4000, 1e308, 5e-324, -0.0, True, "1")


def deep_json(data: bytes, random: Random) -> bytes:
    """Nested deeply: all of it, or one value of it."""
    depth, mark = random.choice(DEPTHS), random.choice((("[", "]"), ('{"a":', "}")))
    value = mark[0] * depth + "1" + mark[1] * random.choice((0, depth))
    if random.random() < 0.3:
        return value.encode()
    text = data.decode("utf-8", "replace")
    colons = [at for at, each in enumerate(text) if each == ":"]
    at = random.choice(colons) + 1 if colons else 0
    return (text[:at] + value + "," + text[at:]).encode("utf-8", "replace")


def wide_json(data: bytes, random: Random) -> bytes:
    """Many small values, which take far more memory than on disk."""
    count = random.choice((10_000, 900_000, 3_000_000))
    value = random.choice(("[]", "0", '""', "{}"))
    many = "[" + ",".join([value] * count) + "]"
    if value == "{}":
        many = "{" + ",".join(f'"{n}":0' for n in range(count // 2)) + "}"
    text = data.decode("utf-8", "replace")
    colons = [at for at, each in enumerate(text) if each == ":"]
    at = random.choice(colons) + 1 if colons else 0
    end = min((text.find(mark, at) for mark in ",}\n" if mark in text[at:]), default=len(text))
    return (text[:at] + many + text[end:]).encode("utf-8", "replace")


def blank(data: bytes, random: Random) -> bytes:
    """Larger than anybody's: spaces, or zeros that take no room on disk."""
    return data + random.choice((b" ", b"\n", b"\0")) * random.choice((2**20, 40 * 2**20))


RUN_JSON: tuple[Mutator, ...] = (*JSON, *JSON, deep_json, wide_json, blank)


def odd_plan(data: bytes, random: Random) -> bytes:
    """A plan that asks for much, or names what it must not."""
    try:
        plan = json.loads(data)
        rounds = plan["rounds"]
        one = random.choice(rounds)
        how, body, dataset = one["hyperparameters"], plan["body"], random.choice(plan["datasets"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return data
    name, number = random.choice(NAMES), random.choice(NUMBERS)
    match random.choice(("name", "rename", "number", "body", "body", "rounds", "options", "split")):
        case "name":
            holder = random.choice((plan, one, dataset))
            key = random.choice(("strategy", "profile", "target", "head", "dataset", "name"))
            holder[key] = name
        case "rename":  # everywhere, so that the plan is whole
            old = f'"{random.choice(("alpha", "beta"))}"'
            return json.dumps(plan).replace(old, json.dumps(name)).encode()
        case "number":
            holder = random.choice((plan, how))
            holder[random.choice([key for key in holder if key != "rounds"])] = number
        case "body":
            width = random.choice((1, 64, 512, 4096, 16_384, 10**6))
            body |= random.choice(
                (
                    {"channels": [width] * random.choice((1, 2, 3, 1000))},
                    {"features": width},
                    {"patch": width, "channels": [random.choice((1, 64))]},
                    {"channels": [width], "features": width, "patch": random.choice((12, 1024))},
                    {"norm": "dataset", "datasets": [name] * 3},
                    {"norm": "dataset", "datasets": [f"d{n}" for n in range(10_000)]},
                )
            )
        case "rounds":
            plan["rounds"] = rounds * random.choice((0, 30, 1000, 100_000))
            if len(plan["rounds"]) > 10_000:
                plan["rounds"] = ["@"]
                text = json.dumps(plan)
                return text.replace('"@"', ",".join([json.dumps(one)] * 1_000_0)).encode()
        case "options":
            value = random.choice((name, number, [1], {"a": 1}, None))
            dataset["options"] = {random.choice(("gain", name)): value}
        case "split":
            dataset["split"] = random.choice(
                (
                    {"train": number, "val": 1, "test": 1},
                    {"train": 1, "val": 1, "fold": {"index": 0, "count": number}},
                    {"train": 1e-300, "val": 1e300, "test": 1},
                )
            )
    return json.dumps(plan).encode()


PLAN: tuple[Mutator, ...] = (odd_plan, odd_plan, odd_plan, odd_plan, *JSON, deep_json, wide_json)


def odd_header(data: bytes, random: Random) -> bytes:
    """A header that claims much: its own length, offsets, shapes, types, or keys there twice."""
    size = int.from_bytes(data[:8], "little")
    text, rest = data[8 : 8 + size].decode("utf-8", "replace"), data[8 + size :]
    try:
        whole: dict[str, Any] = json.loads(text)
        name = random.choice([key for key in whole if key != "__metadata__"])
        tensor = whole[name]
        begin, end = tensor["data_offsets"]
        told = whole["__metadata__"]
        key, said = next(iter(told.items()))
    except (ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError):
        return data
    match random.choice(("length", "offsets", "shape", "type", "twice", "deep", "many", "nan")):
        case "length":
            huge = random.choice(
                (2**20 + 1, 2**31, 2**40, 2**63, 2**64 - 1, 0, size - 1, len(data))
            )
            return huge.to_bytes(8, "little") + data[8:]
        case "offsets":
            tensor["data_offsets"] = random.choice(
                (
                    [0, end],
                    [begin, end + 4],
                    [end, begin],
                    [-1, end],
                    [2**63, 2**64 - 1],
                    [0, 0],
                    [],
                )
            )
        case "shape":
            tensor["shape"] = random.choice(
                (
                    [2**63],
                    [2**32, 2**32],
                    [0],
                    [0, 2**62],
                    [-1],
                    [],
                    [1] * 10_000,
                    [(end - begin) // 4],
                )
            )
        case "type":
            tensor["dtype"] = random.choice(("F64", "F8_E4M3", "BOOL", "U64", "F0", "", "I8", None))
        case "twice":
            text = text.replace("{", '{"' + name + '":' + json.dumps(tensor) + ",", 1)
            return _packed(text, rest)
        case "deep":
            depth = random.choice(DEPTHS)
            told[key] = "[" * depth + "]" * depth
        case "many":
            whole |= {
                f"t{n}": {**tensor, "data_offsets": [end, end], "shape": [0]} for n in range(9000)
            }
        case "nan":
            told[key] = said.replace("1.0", random.choice(("NaN", "1e999")), 1)
    return _packed(json.dumps(whole), rest)


def _packed(text: str, rest: bytes) -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode() + rest


WEIGHTS: tuple[Mutator, ...] = (odd_header, odd_header, odd_safetensors)


def odd_scores(data: bytes, random: Random) -> bytes:
    """Another cell, another line of names, many lines, or one line that is huge."""
    lines = data.decode("utf-8", "replace").splitlines()
    at = random.randrange(len(lines)) if lines else 0
    match random.choice(("cell", "cell", "names", "many", "huge", "short")):
        case "cell":
            cells = lines[at].split(",")
            odd = ("nan", "inf", "1e400", "-1", "", "x", "1_0", '"', "\x1b[31m", "٣", "9" * 5000)
            cells[random.randrange(len(cells))] = random.choice(odd)
            lines[at] = ",".join(cells)
        case "names":
            lines[0] = random.choice(
                (lines[0].upper(), lines[0] + ",p_x", "a", lines[0] + ",label")
            )
        case "many":
            lines += [lines[-1]] * random.choice((1000, 300_000))
        case "huge":
            lines[at] += "x" * random.choice((200_000, 2**25))
        case "short":
            lines[at] = lines[at].rpartition(",")[0]
    return "\n".join(lines).encode("utf-8", "replace")


SCORES: tuple[Mutator, ...] = (odd_scores, odd_scores, *TEXT)


# The folder itself: a change is written down in a file of its own, and carried out by `tamper`.


def odd_folder(data: bytes, random: Random) -> bytes:
    """A change of a folder, to be made by `tamper`."""
    whats = ("link", "link", "link inside", "pipe", "remove", "folder", "hard link", "large")
    return json.dumps({"what": random.choice(whats), "seed": random.randrange(2**32)}).encode()


def odd_tree(data: bytes, random: Random) -> bytes:
    """The same, also with folders nested deeply, and with names that are no text."""
    if random.random() < 0.7:
        return odd_folder(data, random)
    what = random.choice(("deep", "name", "name"))
    return json.dumps({"what": what, "seed": random.randrange(2**32)}).encode()


ODD_NAMES = (b"b\xff\xfe", b"a\nb", b"-rf", b"\x1b[31m", b"x" * 255, b" ", b"files.json ", b"..x")


def odd_holder(data: bytes, random: Random) -> bytes:
    """A ``lock.holder`` of another process, machine or time."""
    pid = random.choice((*NUMBERS, os.getpid(), "1 on x since y", "\u0661"))
    host = random.choice((*NAMES, platform.node()))
    since = random.choice(
        ("", "now", "0001-01-01", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59")
    )
    number = f"{pid:.0f}" if isinstance(pid, float) else str(pid)
    text = f"pid {number} on {host} since "
    return (text + since + "\n" * random.choice((0, 1, 1, 2))).encode("utf-8", "surrogatepass")


def odd_digests(data: bytes, random: Random) -> bytes:
    """A list of digests that agrees with itself, and names something else."""
    try:
        found = Digests.model_validate_json(data)
        name = random.choice(list(found.files))
    except (ValueError, IndexError):
        return data
    files, digest = dict(found.files), found.files[name]
    other = random.choice(
        ("results.json", "rounds", "heads", "new", "a/b/c", "x" * 300, "-", "lock.holder", name)
    )
    size = random.choice((0, 1, digest.size + 1, MAX_WEIGHTS))
    match random.choice(("name", "size", "sha256", "none", "plan", "many")):
        case "name":
            files[other] = files.pop(name)
        case "size":
            files[name] = digest.model_copy(update={"size": size})
        case "sha256":
            files[name] = digest.model_copy(update={"sha256": random.choice(("", "x" * 10**6))})
        case "none":
            files = {}
        case "plan":
            found = found.model_copy(update={"plan": random.choice((None, "", "x" * 64))})
        case "many":
            files |= {f"a{number}": digest for number in range(20_000)}
    return found.model_copy(update={"files": files}).with_own_digest().model_dump_json().encode()


def tamper(folder: Path, told: bytes, *, outside: Path, spare: Callable[[Path], bool]) -> None:
    """Put something else in the place of a file or a folder, or beside them.

    Args:
        folder: To be changed.
        told: By `odd_folder`; anything else changes nothing.
        outside: Where links lead.
        spare: What is not removed.
    """
    try:
        given = json.loads(told)
        what, random = given["what"], Random(given["seed"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    new = (".lock", "lock.holder", "log.txt", "files.json", "rounds/99-alpha-all.new", "heads")
    there = [path for path in sorted(folder.rglob("*")) if not spare(path)]
    path = random.choice([*there, *(folder / name for name in new)])
    if what == "large" and path.is_file():
        os.truncate(path, 2**34)
        return
    if what == "deep":
        path = next(each for each in (path, *path.parents) if each.is_dir())
        path.joinpath("d", *["d"] * random.choice((40, 60, 400))).mkdir(parents=True)
        return
    if what == "name":
        name = Path(os.fsdecode(random.choice(ODD_NAMES)))
        path = random.choice((path if path.is_dir() else path.parent, folder, folder / "rounds"))
        path.mkdir(parents=True, exist_ok=True)
        (path / name).mkdir() if random.random() < 0.5 else (path / name).touch()
        return
    _remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    match what:
        case "link":
            targets = (outside, outside / "file", outside / "none", outside / "none" / "deep")
            path.symlink_to(random.choice((*targets, Path("/dev/zero"), path)))
        case "link inside":
            path.symlink_to(random.choice((folder, folder / "plan.json", folder.parent)))
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "hard link":
            path.hardlink_to(outside / "file")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for each in path.iterdir():
            _remove(each)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
