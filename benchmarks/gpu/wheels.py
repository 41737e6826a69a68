"""Collect the wheels of ``wheels.txt`` for a machine without a network.

    python -m benchmarks.gpu.wheels DIR [--python 3.12]

There: ``pip install --no-index --no-deps --target SITE DIR/*.whl`` and ``PYTHONPATH=SITE:REPOSITORY``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

_FROM_SOURCE = "antlr4-python3-runtime"  # published as source alone


def main() -> None:
    """Download, build what is source, and say how large all of it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--python", default="3.12", help="of the machine that they are for")
    options = parser.parse_args()
    lines = Path(__file__).with_name("wheels.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    options.folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    where = [
        "--python-version",
        options.python,
        "--platform",
        "manylinux2014_x86_64",
        "--platform",
        "manylinux_2_28_x86_64",
    ]
    binary = [line for line in wanted if not line.startswith(_FROM_SOURCE)]
    into = ["--quiet", "--dest", str(options.folder)]
    # pydantic's core is pinned by pydantic itself, to the digit.
    core = ["--only-binary=:all:", *where]
    subprocess.run([*pip, "download", "--no-deps", *core, *into, *binary, _core_of_pydantic(binary)], check=True)
    source = next(line for line in wanted if line.startswith(_FROM_SOURCE))
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(options.folder), source], check=True)
    size = sum(path.stat().st_size for path in options.folder.glob("*.whl"))
    print(f"{len(list(options.folder.glob('*.whl')))} wheels, {size / 2**20:.1f} MiB, in {options.folder}")


def _core_of_pydantic(wanted: list[str]) -> str:
    """The version of pydantic-core that the wanted pydantic asks for."""
    import zipfile

    pydantic = next(line for line in wanted if line.startswith("pydantic=="))
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, pydantic]
        subprocess.run(words, check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith("METADATA"))
            lines = wheel.read(name).decode().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("Requires-Dist: pydantic-core"))


if __name__ == "__main__":
    main()
