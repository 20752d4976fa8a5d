"""What `dvc init`, `dvc config` and `dvc remote` write, without the second that each command takes."""

from pathlib import Path

IGNORED = "/config.local\n/tmp\n/cache\n"


def make_dvc(root: Path, remote: str = "", **options: str) -> None:
    """DVC in ``root``, staging nothing in Git by itself.

    Args:
        root: the repository.
        remote: the address of the default remote; a relative one is relative to the folder ``.dvc``.
        options: more of that remote.
    """
    lines = ["[core]", "analytics = false", "autostage = false"]
    if remote:
        lines += ["remote = store", "['remote \"store\"']", f"url = {remote}"]
        lines += [f"{name} = {value}" for name, value in options.items()]
    (root / ".dvc").mkdir(exist_ok=True)
    (root / ".dvc/config").write_text("\n".join(lines) + "\n")
    (root / ".dvc/.gitignore").write_text(IGNORED)
