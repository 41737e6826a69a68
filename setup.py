"""Everything but the layout of the packages stands in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

version = re.search(r'__version__ = "(.+)"', Path(__file__).with_name("solo_bam").joinpath("__init__.py").read_text())


class WithTestedVersions(build_py):
    """`solo-bam doctor` compares versions with constraints.txt, which in a checkout lies beside the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_file("constraints.txt", str(Path(self.build_lib, "solo_bam", "constraints.txt")))


setup(
    cmdclass={"build_py": WithTestedVersions},
    version=version.group(1),
    packages=[*find_packages(include=["solo_bam", "solo_bam.*"]), "solo_bam.scripts", "solo_bam.zoo_index"],
    # The recipes travel inside the package, so that an installed solo-bam finds them by name.
    package_dir={"solo_bam": "solo_bam", "solo_bam.scripts": "scripts", "solo_bam.zoo_index": "zoo"},
    include_package_data=False,  # what is inside is named here
    package_data={
        "solo_bam": [
            "py.typed",
            "comparison/report/page.html",
            "plots/explore.html",
            "board/page/*",
            "methods/classes.json",
            "**/references.bib",
        ],
        "solo_bam.scripts": ["**/*.yaml", "**/*.md", "slurm/*.sbatch"],
        "solo_bam.zoo_index": ["index.yaml"],
    },
)
