"""``python -m hydrakit``: the command, for launchers that start modules."""

from hydrakit.cli import main

main(prog_name="hydrakit")
