"""Print the installed versions as a constraints file: names and versions alone, no host, no local build tag."""

from importlib.metadata import distributions

_OWN = {"darts-async", "pip", "setuptools", "uv", "wheel"}


def main() -> None:
    """Print `name==version` lines, sorted."""
    found = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions()}
    print("# Versions this project is tested with; written by `make constraints`.")
    for name, version in sorted(found.items()):
        if name not in _OWN:
            print(f"{name}=={version.partition('+')[0]}")


if __name__ == "__main__":
    main()
