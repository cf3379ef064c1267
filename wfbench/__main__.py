"""``python -m wfbench``."""

from wfbench.cli import main

if __name__ == "__main__":
    main()
