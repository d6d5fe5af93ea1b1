"""What pyproject.toml cannot say: the kernels, one extension module for each Cython source of recsys/kernels.

Where there is no C compiler the installation continues without them, and numpy does their work; with REQUIRE_KERNELS=1
in the environment it fails instead.
"""

import os
from pathlib import Path

import numpy as np
from setuptools import Extension, setup

FLAGS = [
    "-O2",
    "-ftree-vectorize",  # what -O3 adds makes these loops slower
    "-ffp-contract=off",  # a * b + c is rounded twice on every processor
    "-g0",
]

OPTIONAL = os.environ.get("REQUIRE_KERNELS") != "1"

setup(
    ext_modules=[
        Extension(
            f"recsys.kernels.{source.stem}",
            [str(source)],
            include_dirs=[np.get_include()],
            optional=OPTIONAL,
            extra_compile_args=FLAGS,
        )
        for source in sorted(Path("recsys/kernels").glob("*.pyx"))
    ]
)
