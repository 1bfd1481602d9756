# SPDX-License-Identifier: GPL-2.0-only
"""The installed command. It imports late: Ctrl-C during the imports ends it without a traceback."""

from __future__ import annotations


def main() -> None:
    """Run a verb; an error is a line or two and an exit code, never a traceback."""
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from orchestrator.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
