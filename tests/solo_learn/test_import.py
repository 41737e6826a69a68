"""Importing solo_bam: light, quiet, and it makes solo-learn importable with BAM in it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def _python(code: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


_HIDE_SOLO = """
    from importlib.machinery import PathFinder
    ordinary = PathFinder.find_spec
    PathFinder.find_spec = staticmethod(lambda name, *rest: None if name == "solo" else ordinary(name, *rest))
"""


def test_import_is_light_and_quiet() -> None:
    done = _python("import solo_bam, sys; print('torch' in sys.modules, 'solo' in sys.modules)", "-W", "error")
    assert done.stdout.split() == ["False", "False"], done.stderr
    assert done.stderr == ""


def test_solo_learn_imports_and_knows_bam_without_a_warning() -> None:
    done = _python(
        """
        import solo_bam
        from solo.methods import METHODS
        import sys
        print(METHODS["bam"].__name__, METHODS["bam_momentum"].__name__)
        print([name for name in sys.modules if name.startswith("pl_bolts")])
        import pytorch_lightning, lightning.pytorch
        print(pytorch_lightning is lightning.pytorch)
        """
    )
    assert done.stdout.splitlines() == ["BAM BAMMomentum", "[]", "False"], done.stderr
    assert done.stderr == ""


def test_works_where_solo_learn_is_loaded_through_its_module_first() -> None:
    done = _python(
        "import solo_bam; import solo.methods.byol; from solo.methods import METHODS; print('bam' in METHODS)"
    )
    assert done.stdout.strip() == "True", done.stderr


def test_the_losses_need_neither_solo_learn_nor_lightning() -> None:
    done = _python(
        """
        import sys
        from solo_bam.losses import BAMLoss
        print([name for name in ("solo", "lightning", "omegaconf") if name in sys.modules])
        """
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_names_of_methods_are_read_without_an_import() -> None:
    from solo_bam import solo_learn

    own = {name for name, cls in solo_learn.METHODS.items() if cls.__module__.startswith("solo.")}
    assert set(solo_learn._names_in_source()) == own
    assert {*own, "bam", "bam_momentum"} - {"base", "linear"} <= {*solo_learn.method_names()}


def test_missing_solo_learn_is_said_in_one_line() -> None:
    done = _python(_HIDE_SOLO + "\n    import solo_bam\n    print('imported')\n")
    assert done.stdout.strip() == "imported"
    assert done.stderr.splitlines() == [
        "solo-bam needs solo-learn, which is not installed; install it with: pip install --no-deps solo-learn==1.0.2"
    ]


def test_every_command_but_the_doctor_says_that_solo_learn_is_missing(tmp_path: Path) -> None:
    code = "from solo_bam.cli import main, COMMANDS\n    print([main([c]) for c in COMMANDS if c != 'doctor'])\n"
    done = _python(_HIDE_SOLO + "\n    " + code)
    assert done.stdout.strip() == str([2] * done.stdout.count("2")), done.stderr
    assert "2" in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert "pip install --no-deps solo-learn==1.0.2" in done.stderr


def test_the_edition_is_told_by_its_folders(tmp_path: Path) -> None:
    (tmp_path / "solo" / "data").mkdir(parents=True)
    (tmp_path / "solo" / "__init__.py").write_text("")
    code = "from solo_bam import solo_learn; print(solo_learn.edition(), solo_learn.problem())"
    assert _python(code, PYTHONPATH=str(tmp_path)).stdout.strip() == "head None"
    (tmp_path / "solo" / "data").rmdir()
    assert _python(code, PYTHONPATH=str(tmp_path)).stdout.strip() == "release None"


def test_help_does_not_load_torch() -> None:
    done = _python("from solo_bam.cli import main; import sys; main(['--help']); print('torch' in sys.modules)")
    assert done.stdout.splitlines()[-1] == "False"
    assert "pretrain" in done.stdout


def test_any_door_may_be_the_first() -> None:
    """The methods ask for solo-learn, which asks for the methods."""
    code = "from solo_bam.methods.bam import BAM; from solo.methods import METHODS; print(METHODS['bam'] is BAM)"
    assert _python(code).stdout.split() == ["True"]
