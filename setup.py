"""Builds the compiled leaves and the compiled connection pair; every .pyx under kairos/ is one extension.

Environment:
  KAIROS_EXT=a.b,c.d   build only these modules (a leaf rebuilds in seconds); `none` builds none
  KAIROS_SANITIZE=1    ASan and UBSan build, used by `make asan`
  KAIROS_ANNOTATE=1    write Cython's annotated HTML beside each source
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = os.environ.get("KAIROS_SANITIZE") == "1"
COMPILE_ARGS = ["-O2", "-g0", "-Wall", "-Wno-unused-function", "-fsigned-char", "-fno-strict-aliasing"]
LINK_ARGS: list[str] = []
if SANITIZE:
    COMPILE_ARGS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fsigned-char"]
    LINK_ARGS = ["-fsanitize=address,undefined"]

DIRECTIVES = {
    "language_level": 3,
    "embedsignature": False,
    "binding": False,
    "cdivision": True,  # C division; every divisor in the sources is a non-zero constant or checked
}


def extensions() -> list[Extension]:
    """One Extension per .pyx below kairos/, named after its path."""
    wanted = {name for name in os.environ.get("KAIROS_EXT", "").split(",") if name}
    found = []
    for source in sorted(Path("kairos").rglob("*.pyx")):
        name = ".".join(source.with_suffix("").parts)
        if not wanted or name in wanted:
            found.append(Extension(name, [str(source)], extra_compile_args=COMPILE_ARGS, extra_link_args=LINK_ARGS))
    return found


setup(
    ext_modules=cythonize(  # type: ignore[no-untyped-call]
        extensions(),
        compiler_directives=DIRECTIVES,
        annotate=os.environ.get("KAIROS_ANNOTATE") == "1",
        force=SANITIZE,
        nthreads=int(os.environ.get("KAIROS_JOBS", "0")),
    )
)
