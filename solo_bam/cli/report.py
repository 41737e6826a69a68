"""``solo-bam report``: tables and page of comparisons, again, from their runs on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from solo_bam.cli.options import Parser, parse
from solo_bam.core.errors import UserError
from solo_bam.core.files import expanded, writable


def main(arguments: Sequence[str]) -> int:
    """Write what ``solo-bam compare`` writes at its end; of several comparisons, one page."""
    parser = Parser(prog="solo-bam report", description="Tables and page of comparisons, from their runs on disk.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="a folder of solo-bam compare")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: DIR; report/ of several")
    parser.add_argument("--results", type=Path, metavar="FILE.csv", help="write the numbers alone there, too")
    parser.add_argument(
        "--paper", type=Path, metavar="FOLDER", help="write table, figures, protocol and references there"
    )
    options = parse(parser, arguments)
    if options.paper and len(options.folders) > 1:
        raise UserError("--paper", f"got {len(options.folders)} comparisons, one is allowed", "name one DIR")

    from solo_bam.comparison.collect import collect
    from solo_bam.comparison.progress import overview
    from solo_bam.comparison.report.formats import write_results
    from solo_bam.comparison.report.write import write_report

    output = expanded(options.output or (options.folders[0] if len(options.folders) == 1 else Path("report")))
    writable(output, "--output")
    if options.paper:
        writable(expanded(options.paper), "--paper")
    results = [collect(expanded(folder)) for folder in options.folders]
    page = write_report(results, output)
    if options.results:
        write_results(expanded(options.results), results)
    if options.paper:
        from solo_bam.comparison.report.paper import write_paper

        print(f"Paper: {write_paper(results[0], expanded(options.paper))}")
    for one in results:
        print(f"{one.name}{overview(one)}")
    print(f"Report: {page}")
    return 0
