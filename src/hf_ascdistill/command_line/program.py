"""Reads the command line of `ascdistill`, runs a command, and turns what goes wrong into one line and an exit code."""

import argparse
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from transformers import HfArgumentParser
from transformers.utils import logging

from . import classify, convert, info, publish

COMMANDS = {"classify": classify, "info": info, "convert": convert, "publish": publish}
USAGE_ERROR, INTERRUPTED = 2, 130
DESCRIPTION = """Acoustic scene classification on the command line.

Results go to standard output, messages and progress to standard error. A MODEL is a folder, or the name of a model on
the Hub, which is fetched unless HF_HUB_OFFLINE=1 is set."""
EXIT_CODES = """exit codes:
  0  all went well
  1  some files could not be classified; each is named with the reason, the others are done
  2  nothing was done: wrong arguments, no such model, a refused push
130  interrupted, or nobody reads the results any more"""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of `ascdistill`, with a parser for each command."""
    formatter = argparse.RawDescriptionHelpFormatter
    texts = {"description": DESCRIPTION, "epilog": EXIT_CODES, "formatter_class": formatter}
    parser = HfArgumentParser(prog="ascdistill", allow_abbrev=False, **texts)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON")
    shared.add_argument("--quiet", action="store_true", help="no progress, and no messages but errors")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, module in COMMANDS.items():
        summary, _, examples = module.__doc__.partition("\n\n")
        command = commands.add_parser(
            name,
            dataclass_types=module.ARGUMENTS,
            parents=[shared],
            allow_abbrev=False,
            help=summary.removesuffix("."),
            description=f"{summary}\n\n{examples}",
            epilog=EXIT_CODES,
            formatter_class=formatter,
        )
        module.add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv (`Sequence[str]`, *optional*): command line without the program's name; unset: the process's.

    Returns:
        `int`: the exit code; 0: all went well, 1: some files could not be classified, 2: nothing was done, 130:
        interrupted.

    Raises:
        SystemExit: after `--help`, and with code 2 where the arguments are no command line.
    """
    arguments = build_parser().parse_args(argv)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
    if arguments.quiet or not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        code = COMMANDS[arguments.command].run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
    except (ValueError, OSError, ImportError) as error:
        print(f"ascdistill {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f"ascdistill {arguments.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


__all__ = ["build_parser", "main"]
