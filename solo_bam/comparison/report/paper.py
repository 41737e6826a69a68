"""A comparison for a paper: table, figures, protocol in words, references, numbers. Needs matplotlib."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from solo_bam.comparison.report import paper_figures
from solo_bam.comparison.report.formats import write_results
from solo_bam.comparison.report.summary import digits, format_mean, listed, seeds
from solo_bam.comparison.report.tables import lettered
from solo_bam.comparison.results import Column, Results, with_untrained
from solo_bam.core.files import written_whole

_PACKAGE = Path(__file__).parents[2]
_REFERENCES = ("methods/references.bib", "data/datasets/references.bib")
_TOOLKIT = ("solo-learn", "solo-bam")  # cited for the package itself
_MAIN = r"""\documentclass[twocolumn]{article}
\usepackage{iftex}
\ifPDFTeX
  \usepackage[T1]{fontenc}
  \usepackage[utf8]{inputenc}
  \IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}  %% outlines: T1's default may be bitmaps (Type 3)
\fi  %% names in other scripts: latexmk -lualatex main.tex, and a font that has them
\usepackage{booktabs,graphicx,url}
\begin{document}
\input{protocol}
\input{table}
%s
\bibliographystyle{plain}
\bibliography{references}
\end{document}
"""
_FIGURE = r"""\begin{figure}
\centering
\includegraphics[width=\columnwidth]{%s}
\caption{%s}
\end{figure}"""
_CAPTIONS = {
    "accuracy": "Seeds (small dots), mean and 95\\,\\% interval; dashed: the network before training.",
    "differences": "Differences to %s, paired by seed: seeds, mean and 95\\,\\%% interval.",
}


def write_paper(results: Results, folder: Path) -> Path:
    """Write what a paper takes from a comparison, and ``main.tex``, which shows it: ``latexmk -pdf main.tex``.

    Args:
        results: of one comparison.
        folder: created where it is missing; files of the same names are replaced.

    Returns:
        ``main.tex``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder / "results.csv", [results])
    shutil.copyfile(paper_figures.__file__, folder / "figures.py")
    paper_figures.main(folder, results.baseline)
    texts = {
        "table.tex": table(results),
        "protocol.tex": protocol(results),
        "references.bib": "\n\n".join(_cited(results).values()) + "\n",
        "main.tex": _MAIN % "\n".join(_figures(results, folder)),
    }
    for name, text in texts.items():
        with written_whole(folder / name) as part:
            part.write_text(text, encoding="utf-8")
    return folder / "main.tex"


def _figures(results: Results, folder: Path) -> Iterator[str]:
    for name, caption in _CAPTIONS.items():
        if (folder / f"{name}.pdf").exists():
            yield _FIGURE % (f"{name}.pdf", caption % tex(results.baseline) if "%s" in caption else caption)


# ------------------------------------------------------------------------------------------------ table


def table(results: Results) -> str:
    """Means and intervals of what was measured after the training; bold: clear of every other row, paired by seed."""
    columns = [column for _, column in lettered(results) if not column.online and column.branch != "teacher"]
    lines = [
        " & ".join([tex(entry), *(_cell(results, column, entry) for column in columns)]) + r" \\"
        for entry in with_untrained(results.entries, columns)
    ]
    unfair = f" Not a fair comparison: {tex('; '.join(results.unfair))}." if results.unfair else ""
    caption = (
        rf"{tex(results.name)}: accuracy (\%), {_interval(results)}. Bold: ahead of every other row by a paired "
        rf"95\,\% interval.{unfair}"
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
            r"\toprule",
            " & ".join(["", *(tex(column.title) for column in columns)]) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _interval(results: Results) -> str:
    return f"mean and half of its 95\\,\\% interval over seeds {listed(seeds(results))}"


def _cell(results: Results, column: Column, entry: str) -> str:
    told = tex(format_mean(column.estimate(entry), digits(results)))
    return rf"\textbf{{{told}}}" if _ahead_of_all(results, column, entry) else told


def _ahead_of_all(results: Results, column: Column, entry: str) -> bool:
    others = [other for other in results.entries if other != entry and other in column.values]
    found = [column.difference(entry, other) for other in others]
    return bool(found) and all(one is not None and one.clear_of_zero and one.mean > 0 for one in found)


# ------------------------------------------------------------------------------------------------ words


def protocol(results: Results) -> str:
    """A paragraph that states how the numbers were made."""
    rows = [f"{tex(entry)}{_cite([method])}" for entry, method in _first_methods(results).items()]
    stated = {name: tex(value) for name, value in results.stated.items()}
    data = stated.pop("data", "the data") + _cite([results.dataset])
    settings = listed(f"{name} {value}" for name, value in stated.items())
    measured = "; ".join(tex(column.stated) for _, column in lettered(results) if not column.online)
    unfair = f" The comparison is not fair: {tex('; '.join(results.unfair))}." if results.unfair else ""
    return (
        f"We pretrain {listed(rows)} on {data} with seeds {listed(seeds(results))}, all with {settings}.{unfair} "
        f"{tex(results.tuning or 'Nothing was tuned for this comparison.')} "
        f"Numbers are means over seeds with half of their 95\\,\\% interval (Student's t, from three seeds on); "
        f"differences are paired by seed. Measured after the training: {measured}. "
        f"Trained and measured with solo-bam{_cite(_TOOLKIT)}.\n"
    )


def _first_methods(results: Results) -> dict[str, str]:
    return {entry: next(o.method for o in results.outcomes if o.entry == entry) for entry in results.entries}


# ------------------------------------------------------------------------------------------- references


def references() -> dict[str, tuple[set[str], str]]:
    """Of every entry that is known: what it stands for, and its BibTeX."""
    found = {}
    for place in _REFERENCES:
        for entry in re.split(r"\n(?=@)", (_PACKAGE / place).read_text(encoding="utf-8")):
            if told := re.match(r"@\w+\{(\S+), of = \{(.+?)\},", entry):
                text = entry.replace(f" of = {{{told[2]}}},", "", 1).rstrip()
                found[told[1]] = (set(told[2].split(", ")), text)
    return found


def _keys(names: Iterable[str]) -> list[str]:
    wanted = set(names)
    return [key for key, (of, _) in references().items() if of & wanted]


def _cite(names: Sequence[str]) -> str:
    keys = _keys(names)
    return rf"~\cite{{{','.join(keys)}}}" if keys else ""


def _cited(results: Results) -> dict[str, str]:
    names = [*_first_methods(results).values(), results.dataset, *_TOOLKIT]
    return {key: references()[key][1] for key in _keys(names)}


# ----------------------------------------------------------------------------------------------- LaTeX

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", "−": r"$-$", "×": r"$\times$", "†": r"$^\dagger$", "—": "---", "–": "--",
    "…": r"\ldots{}", "[": "{[}", "*": "{*}",  # else taken for what may follow the end of a row
}  # fmt: skip


def tex(text: str) -> str:
    """The text with LaTeX's own characters escaped."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
