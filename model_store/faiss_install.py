"""`faiss-cpu` and `faiss-gpu` are one module under two names: with both installed, which one answers is chance."""

from __future__ import annotations

import re
import sys
from importlib import metadata

_FAISS = re.compile(r"faiss(-cpu|-gpu(-cu\d+)?)?")


class WrongFaissInstall(Exception):
    """Not exactly one FAISS distribution is installed; the message says how to repair that."""


def installed_faiss() -> dict[str, str]:
    """Name -> version of every installed distribution that brings the module `faiss`."""
    found = ((dist.name.lower().replace("_", "-"), dist.version) for dist in metadata.distributions())
    return {name: version for name, version in found if _FAISS.fullmatch(name)}


def check_one_faiss() -> str:
    """The one installed FAISS as "name version"; raises WrongFaissInstall when there is none, or several."""
    found = installed_faiss()
    if not found:
        raise WrongFaissInstall("no FAISS is installed. Cure: pip install faiss-cpu (or faiss-gpu for CUDA)")
    if len(found) > 1:
        # Uninstalling one of two removes files that both own: both must go before one comes back.
        names = " ".join(sorted(found))
        raise WrongFaissInstall(
            f"{len(found)} FAISS distributions are installed ({names}), and they overwrite each other's files. "
            f"Cure: pip uninstall --yes {names}; then pip install the one that you want"
        )
    name, version = found.popitem()
    return f"{name} {version}"


if __name__ == "__main__":
    try:
        sys.stdout.write(f"one FAISS: {check_one_faiss()}\n")
    except WrongFaissInstall as error:
        sys.exit(f"error: {error}")
