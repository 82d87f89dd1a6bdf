"""`python -m cardiotune` is the `cardiotune` command."""

from cardiotune.cli import main

main()
