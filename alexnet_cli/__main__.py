"""`alexnet` and `python -m alexnet_cli`."""

from alexnet_cli.cli import main

if __name__ == "__main__":
    main()
