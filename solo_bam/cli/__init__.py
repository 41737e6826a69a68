"""The console script: ``solo-bam COMMAND …``. Commands are imported when they are called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from solo_bam import __version__, solo_learn
from solo_bam.core.errors import UserError, nearest
from solo_bam.core.requirements import check_requirements

COMMANDS = {
    "list": "name what there is: recipes, comparisons, methods, backbones, data sets, metrics, figures",
    "show": "print a recipe as it is resolved, each value with the file that it comes from",
    "new": "write a recipe for a folder of images",
    "pretrain": "train a method from a recipe",
    "status": "list the runs below a folder: how far they are, time left, last metrics",
    "board": "the same and more in a browser: search, curves, recipes, pictures, comparisons, as they change",
    "knn": "k-NN accuracy of a checkpoint's features",
    "linear": "train a linear classifier on frozen features, or fine-tune",
    "compare": "compare methods: shared recipes, equal tuning, several seeds, one report",
    "report": "tables and page of comparisons, from their runs on disk",
    "health": "measures of a checkpoint's features that need no labels",
    "transfer": "one table of what features are good for: k-NN, logistic regression, few labels, corruptions, health",
    "davis": "segment videos with frozen features: label propagation on DAVIS-2017",
    "plot": "pictures of runs and checkpoints: curves, attention, similarity, features, confusion",
    "explore": "a page to look at features with: images in the plane, their neighbours, confused classes",
    "export": "write a backbone for timm or detectron2, with a model card",
    "zoo": "list, show and check the checkpoints that are known",
    "import-official": "read a published BAM checkpoint",
    "doctor": "say what this machine can do, and whether a recipe can run on it",
    "demo": "pretrain BAM on handwritten digits for a few minutes and show what it learned",
    "completion": "print what completes commands in bash, zsh or fish",
}

HELP = (
    f"""solo-bam {__version__}: BAM for solo-learn, and fair comparisons

usage: solo-bam COMMAND [options] [key=value ...]

commands:
"""
    + "".join(f"  {name:<17}{text}\n" for name, text in COMMANDS.items())
    + """
solo-bam COMMAND --help tells more.
"""
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when all went well, 2 for an error that the user can mend."""
    arguments = [*(sys.argv[1:] if argv is None else argv)]  # `list` is a command's module here
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"solo-bam: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("solo-bam: error: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has gone: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: Sequence[str]) -> int:
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may stand on its line
        from solo_bam.cli.completion import complete_command

        arguments = [complete_command(COMMANDS)]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        problem = f"unknown command{nearest(command, COMMANDS)}, allowed: {', '.join(COMMANDS)}"
        raise UserError(command, problem, "see solo-bam --help")
    check_requirements()
    if solo_learn.problem() and command != "doctor":
        return 2  # importing solo_bam has already said what to install
    module = importlib.import_module(f"solo_bam.cli.{command.replace('-', '_')}")
    code: int = module.main(rest)
    return code
