"""``python -m wfbench``."""

from wfbench.cli import main

main()
