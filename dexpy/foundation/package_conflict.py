"""The other package of the name `dexpy` on the package index, which has nothing to do with this one.

Both install a folder ``dexpy``: what is installed last overwrites ``dexpy/__init__.py``, and removing the other one
deletes it.
"""

from __future__ import annotations

import sys
from typing import Any

DISTRIBUTION = "dexpy-operations"
"""Under this name this package is installed; `import dexpy` stays."""
FIX = f"Run: python -m pip uninstall --yes dexpy && python -m pip install --force-reinstall --no-deps {DISTRIBUTION}"


def check_package() -> None:
    """Refuse to continue where ``import dexpy`` imports another package.

    Raises:
        ImportError: It does; the message has the command that repairs the installation.
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
    """Describe an installed distribution that is called `dexpy` and is not this one; None if there is none."""
    # Here, because it takes as long as a fifth of `import dexpy`.
    from importlib import metadata

    try:
        version = metadata.version("dexpy")
    except metadata.PackageNotFoundError:
        return None
    return (
        f"the unrelated distribution 'dexpy' {version} is installed into the same folder; removing or upgrading it "
        f"breaks this one. {FIX}"
    )
