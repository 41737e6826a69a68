"""``solo-bam compare``: train methods under shared recipes, measure them alike, and report it."""

from __future__ import annotations

from collections.abc import Sequence

from solo_bam.cli.options import Parser, add_import, import_modules, parse
from solo_bam.core.files import expanded, writable


def main(arguments: Sequence[str]) -> int:
    """Plan, search, train, measure and report; what is there already is kept."""
    parser = Parser(
        prog="solo-bam compare",
        description="Compare methods: shared recipes, an equal search, several seeds, one report. "
        "Started again, it goes on where it stopped.",
        epilog="On SLURM: launcher=slurm launcher.partition=gpu launcher.gpus_per_node=1. "
        "Hydra's other launchers are chosen as in Hydra: hydra/launcher=NAME",
    )
    parser.add_argument("name", metavar="NAME", help="a comparison, e.g. digits")
    parser.add_argument("--config-path", metavar="FOLDER", help="folder of your own comparisons")
    add_import(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be run, and what differs")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. methods=[bam,byol] seeds=[0,1] epochs=20"
    )
    options = parse(parser, arguments)
    import_modules(options.modules)
    from solo_bam.config.comparison import load_comparison, split_launcher

    launcher, overrides = split_launcher(options.overrides)
    comparison = load_comparison(options.name, overrides, options.config_path)

    from solo_bam.comparison.plan import make_plan
    from solo_bam.comparison.run import announce, compare

    plan = make_plan(comparison, options.modules)
    writable(expanded(plan.comparison.folder), "output")
    announce(plan)
    if options.dry_run:
        return 0
    results, _ = compare(plan, launcher)
    return 1 if results.failed else 0
