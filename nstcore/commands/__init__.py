"""One file per command. Each has `add_parser(subparsers)`, which sets `run`, a function of the parsed arguments that
returns the exit code. Heavy modules are imported when a command runs, so that `--help` answers at once."""
