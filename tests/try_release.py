"""Tries built distributions as a user has them: in a new environment, without the repository.

    python tests/try_release.py dist --python python3.13

`make dist` calls it. It checks the metadata, installs the wheel with all it needs from the package
index, and uses commands, Python names and types of the installed package. Options behind ``--`` go
to pip.
"""  # fmt: skip

from __future__ import annotations

import argparse
import email.parser
import email.policy
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAME = "hydrakit_imaging"
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
TYPED = """\
import hydrakit

plan: hydrakit.Plan = hydrakit.make_plan("classical", ["brain"])
wrong: int = hydrakit.make_plan("classical", ["brain"])
"""


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    """Run a command without this process's Python and hydrakit variables; return its output."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "HYDRAKIT"))
    }
    clean["HYDRAKIT_CACHE"] = str(cwd / "cache")
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        cwd=cwd,
        env=clean,
    )
    if done.returncode != status:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def distributions(folder: Path) -> tuple[Path, Path]:
    """The wheel and the source distribution in a folder, which has no others."""
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, source


def metadata_faults(wheel: Path, source: Path) -> list[str]:
    """What a package index would refuse in the metadata, or show wrongly."""
    from packaging.metadata import Metadata

    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        content = archive.read(name)
    with tarfile.open(source) as archive:
        folder = source.name.removesuffix(".tar.gz")
        member = archive.extractfile(f"{folder}/PKG-INFO")
        assert member is not None
        same = member.read() == content
    found = Metadata.from_email(content, validate=True)  # raises what is invalid
    message = email.parser.BytesParser(policy=email.policy.compat32).parsebytes(content)
    faults = [] if same else ["wheel and source distribution have different metadata"]
    if found.description_content_type != "text/markdown":
        faults.append(f"the description is {found.description_content_type}")
    if not str(message.get_payload()).startswith("# hydrakit"):
        faults.append("the description is not the README")
    if found.license_expression != "MIT" or not found.license_files:
        faults.append("the licence is missing")
    return faults


def install(wheel: Path, folder: Path, python: str, options: Sequence[str]) -> Path:
    """Install a wheel in a new environment; return the environment's Python."""
    run(python, "-m", "venv", folder / "env", cwd=folder)
    own = folder / "env" / SCRIPTS / "python"
    pip = (own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "-c", ROOT / "constraints.txt", *options, wheel, "mypy", cwd=folder)
    return own


def try_out(python: Path, folder: Path, version: str) -> list[str]:
    """Use what is installed in an environment; return what was tried, in words."""
    program = python.parent / "hydrakit"
    for call in ([program], [python, "-m", "hydrakit"]):
        assert version in run(*call, "--version", cwd=folder)
    code = "import hydrakit, sys; print(hydrakit.__file__, hydrakit.__version__)"
    where, is_version = run(python, "-c", code, cwd=folder).split()
    assert Path(where).is_relative_to(python.parent.parent), where
    assert is_version == version
    shipped = {path.parent.name.replace("-", "_") for path in ROOT.glob("plugins/*/pyproject.toml")}
    records = json.loads(run(program, "plugins", "list", "--json", cwd=folder))
    assert shipped <= {record["module"] for record in records}
    assert not [each for each in records if each["error"] or each["clashes"]]

    run(program, "phantom", "data", "--patients", "15", "--datasets", "brain,lung", cwd=folder)
    words = "--strategy hydra --datasets brain,lung,brain --data data --out run --device cpu"
    tiny = "--epochs 1 --bootstrap 1 --body-channels 4,8 --ensemble 1 --threads 1"
    run(program, "run", *words.split(), *tiny.split(), cwd=folder)
    assert "test" in json.loads((folder / "run" / "results.json").read_text("utf-8"))
    run(program, "predict", "run", "data/brain", "--out", "out.csv", cwd=folder)
    assert len((folder / "out.csv").read_text("utf-8").splitlines()) > 1
    code = "import hydrakit; print(type(hydrakit.load_model('run')).__name__)"
    assert run(python, "-c", code, cwd=folder).strip() == "Model"
    return ["commands", f"{len(records)} plugins", "a run", "predictions", "Python names"]


def check_types(python: Path, folder: Path) -> None:
    """Check two lines against the types of the installed package: the second one is wrong."""
    (folder / "typed.py").write_text(TYPED, encoding="utf-8")
    settings = "[mypy]\nstrict = true\n[mypy-torch.*]\nfollow_imports = skip\n"
    (folder / "mypy.ini").write_text(settings, encoding="utf-8")
    lines = run(python, "-m", "mypy", "typed.py", cwd=folder, status=1).splitlines()
    assert [line.split(": ")[0] for line in lines if "error:" in line] == ["typed.py:4"], lines


def main() -> None:
    """Check, install and try the distributions in a folder."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("dist", type=Path, help="folder with one wheel and one source distribution")
    parser.add_argument("--python", default=sys.executable, help="Python of the environment")
    parser.add_argument("pip", nargs="*", help="options of pip, behind --")
    arguments = parser.parse_args()
    wheel, source = distributions(arguments.dist.resolve())
    faults = metadata_faults(wheel, source)
    if faults:
        raise SystemExit("\n".join(faults))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        python = install(wheel, folder, arguments.python, arguments.pip)
        tried = try_out(python, folder, project["version"])
        check_types(python, folder)
        which = run(python, "-VV", cwd=folder).splitlines()[0]
    print(f"{wheel.name}, {which}: {', '.join([*tried, 'types'])} work")


if __name__ == "__main__":
    main()
