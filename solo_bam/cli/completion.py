"""``solo-bam completion``: what a shell reads to complete commands, options, recipes, their keys and runs."""

from __future__ import annotations

import os
from argparse import RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence

import argcomplete
from argcomplete.shell_integration import shellcode

from solo_bam.cli.options import Parser, parse

_USE = """to use it, now and in every shell to come:
  bash  add to ~/.bashrc:                   eval "$(solo-bam completion bash)"
  zsh   add to ~/.zshrc, after compinit:    eval "$(solo-bam completion zsh)"
  fish  add to ~/.config/fish/config.fish:  solo-bam completion fish | source
"""


def main(arguments: Sequence[str]) -> int:
    """Print the script of a shell."""
    parser = Parser(
        prog="solo-bam completion",
        description="Print the script that completes solo-bam's commands in a shell.",
        epilog=_USE,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh, fish")
    print(shellcode(["solo-bam"], shell=parse(parser, arguments).shell))
    return 0


def complete_command(commands: Mapping[str, str]) -> str:
    """The command on the line that a shell wants completed; where it is still being written, complete it and exit."""
    before = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])].split(" ")
    words = [word for word in before[:-1] if word]
    if len(words) > 1:
        os.environ["_ARGCOMPLETE"] = "2"  # its words begin at the command
        return words[1]
    parser = Parser(prog="solo-bam")
    parser.add_argument("--version", action="store_true")
    choices = parser.add_subparsers()
    for name, text in commands.items():
        choices.add_parser(name, help=text)
    argcomplete.autocomplete(parser)  # exits
    raise AssertionError
