"""The command `manymodal`: its sub-commands, and the one place where errors become sentences and exit codes.

Exit codes: 0 complete, 1 ended incomplete, 2 usage or config, 3 damage found, 4 storage unreachable, 130/143
interrupted and resumable by the same command.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

import typer

from pipeline.cli import care, data, explain, find, fourm, judge, learn, pages, planning, use
from pipeline.leave import leave

app = typer.Typer(
    name="manymodal", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="One image in, many aligned modalities out, then tokens, then one any-to-any model.",
)  # fmt: skip
for command in (
    data.init, data.ingest, planning.plan, data.label, learn.fit, learn.tokenize, learn.train, data.status,
    explain.why, explain.diff,
    care.verify, care.repair, care.gc, care.retry, care.forget, care.promote,
    use.generate, find.index, find.retrieve, judge.evaluate, judge.transfer,
    pages.gallery, pages.demo, pages.doctor, fourm.export, fourm.adopt,
):  # fmt: skip
    app.command()(command)
app.command("import")(fourm.import_)


class _Stop:
    """First signal: stop in order (KeyboardInterrupt where the program stands). Second: at once. Both leave a resumable
    state.
    """

    def __init__(self) -> None:
        self.code = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.code:
            os._exit(self.code)
        self.code = 128 + number
        raise KeyboardInterrupt


def main() -> None:
    """Entry point of the console script."""
    from pipeline.errors import ManymodalError

    stop = _Stop()
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        code = app(standalone_mode=False)  # what a command returns, or the code of an Exit; typer makes one of Ctrl-C
    except KeyboardInterrupt:
        code = 130
    except ManymodalError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except typer.Exit as stopped:
        sys.exit(stopped.exit_code)
    except Exception as error:
        show = getattr(error, "format_message", None)  # usage errors of the command-line parser
        if show is None:
            raise
        _say(f"{show()} Try `manymodal --help`.")
        sys.exit(getattr(error, "exit_code", 2))
    if stop.code or code == 130:
        _say("interrupted; the same command resumes")
        sys.exit(stop.code or 130)
    code = code if isinstance(code, int) else 0
    if "TORCHELASTIC_RUN_ID" in os.environ:  # one of several processes that torchrun started
        leave(code)
    sys.exit(code)


def _say(sentence: str) -> None:
    print(f"manymodal: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
