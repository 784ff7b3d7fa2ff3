"""`python -m darts_async.cli`: the same as the console script."""

from darts_async.cli.root import main

if __name__ == "__main__":
    main()
