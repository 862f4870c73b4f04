"""Detection of the unrelated package `dexpy` on the package index.

Both packages install a folder ``dexpy``: the later installation overwrites ``dexpy/__init__.py``, and removing the
other package deletes it.
"""

from __future__ import annotations

import sys
from typing import Any

DISTRIBUTION = "dexpy-operations"
"""The name of the distribution; the import name is `dexpy`."""
FIX = f"Run: python -m pip uninstall --yes dexpy && python -m pip install --force-reinstall --no-deps {DISTRIBUTION}"


def check_package() -> None:
    """Raise an error if ``import dexpy`` imports another package.

    Raises:
        ImportError: Another package is imported; the message has the command that repairs the installation.
    """
    package: Any = sys.modules.get("dexpy")
    if getattr(package, "__distribution__", None) == DISTRIBUTION:
        return
    file = getattr(package, "__file__", None)
    problem = f"{file} belongs to another package" if file else "dexpy/__init__.py is missing"
    raise ImportError(
        f"dexpy: {problem}. The distribution 'dexpy' of the package index is an unrelated project that installs the "
        f"same folder; this one is {DISTRIBUTION!r}. {FIX}"
    )


def conflicting_distribution() -> str | None:
    """Return a description of the unrelated distribution `dexpy` if it is installed, else None."""
    # Imported here, because it takes a fifth of the time of `import dexpy`.
    from importlib import metadata

    try:
        version = metadata.version("dexpy")
    except metadata.PackageNotFoundError:
        return None
    return (
        f"the unrelated distribution 'dexpy' {version} is installed into the same folder; removing or upgrading it "
        f"breaks this one. {FIX}"
    )
