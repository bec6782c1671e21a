"""`python -m densekit` is the command `densekit`."""

from densekit.cli.main import main

if __name__ == "__main__":
    main()
