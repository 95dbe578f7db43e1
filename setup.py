"""What pyproject.toml cannot say: the package layout and the compiled extension."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

sys.path.insert(0, str(Path(__file__).parent))
from build_backend.extension import BuildExtension, extension

setup(
    packages=[*find_packages(include=["indeed_ext", "indeed_ext.*"]), "indeed_ext.triton_kernels"],
    # A top-level "triton_kernels" would collide with Triton's own package of that name.
    package_dir={"indeed_ext": "indeed_ext", "indeed_ext.triton_kernels": "triton_kernels"},
    package_data={"indeed_ext": ["py.typed", "_build_info.json", "train/recipes/*.yaml"]},
    ext_modules=[extension()],
    cmdclass={"build_ext": BuildExtension},
)
