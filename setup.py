"""Build of nstcore. The top-level folders `kernels` and `weights` hold data; a wheel carries them in the package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["nstcore", "nstcore.*"]), "nstcore._kernels", "nstcore._weights"],
    package_dir={"nstcore._kernels": "kernels", "nstcore._weights": "weights"},
    package_data={
        "nstcore": ["py.typed", "examples/*"],
        "nstcore._kernels": ["*.md"],
        "nstcore._weights": ["*.md", "*.h5", "*.toml"],
    },
)
