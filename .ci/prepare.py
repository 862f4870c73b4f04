"""Sets up ``.venv`` in this folder, for the Makefile: ``python3 .ci/prepare.py core|dev``.

Needs nothing but Python. Two at once take turns; one that was interrupted is done again; what is there already is kept.
"""

import fcntl
import os
import subprocess
import sys
import venv
from pathlib import Path

HOME = Path(".venv")
PYTHON = str(HOME / "bin" / "python")
WANTED = {"core": ".", "dev": ".[dev]"}
COVERED = {"core": ("core",), "dev": ("dev", "core")}


def stamp(what: str) -> Path:
    """The file that says when this was installed."""
    return HOME / f".installed-{what}"


def is_fresh(what: str) -> bool:
    """Whether it is installed, as pyproject.toml now has it."""
    mark = stamp(what)
    return mark.exists() and mark.stat().st_mtime >= Path("pyproject.toml").stat().st_mtime


def works(statement: str) -> bool:
    """Whether the virtualenv's Python can do something."""
    try:
        return subprocess.run([PYTHON, "-c", statement], capture_output=True, check=False).returncode == 0  # noqa: S603
    except OSError:
        return False


def make_usable() -> None:
    """Make the virtualenv, if it is not there or was left half-made."""
    ready = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    if works(ready):
        return
    if works("import sys, ensurepip; sys.exit(sys.version_info < (3, 11))"):
        # Made by a tool that leaves pip out.
        subprocess.run([PYTHON, "-m", "ensurepip"], capture_output=True, check=False)  # noqa: S603
        if works(ready):
            return
    print(f"Making {HOME} with Python {sys.version.split()[0]}.", flush=True)
    venv.create(HOME, clear=True, with_pip=True)


def main(what: str) -> int:
    """Install the core, or everything for development."""
    # On the folder itself: no lock file stays behind, and the lock of a process that dies is free.
    folder = os.open(".", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Waiting for another set-up in this folder.", flush=True)
        fcntl.flock(folder, fcntl.LOCK_EX)
    if is_fresh(what):
        return 0
    make_usable()
    print(f"Installing dexpy ({what}) into {HOME}; this takes a moment, once.", flush=True)
    install = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable", WANTED[what]]
    if subprocess.run(install, check=False).returncode != 0:  # noqa: S603
        print("The packages could not be installed; what pip says is above. Is the network there?", file=sys.stderr)
        return 1
    for covered in COVERED[what]:
        stamp(covered).touch()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
