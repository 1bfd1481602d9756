# SPDX-License-Identifier: GPL-2.0-only
"""Made-up kernel trees of a dozen files, and the archives and repositories that hold them."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "commit.gpgsign=false"]

LOOKUP = "struct vm_area_struct *lock_vma_under_rcu(struct mm_struct *mm, unsigned long address)\n{\n}\n"
SYMBOL = "config PER_VMA_LOCK\n\tdef_bool y\n"


def make_tree(
    path: Path, age: str = "selectable", version: tuple[str, str, str, str] = ("7", "2", "1", "")
) -> Path:
    """A tree that looks like a kernel's: ``age`` is absent, selectable or universal."""
    files = {
        "Makefile": "".join(
            f"{name} = {value}\n"
            for name, value in zip(
                ("VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION"), version, strict=True
            )
        ),
        "Kconfig": 'mainmenu "made up"\n',
        ".gitignore": "*.o\n.config\n",
        "scripts/kconfig/Makefile": "# empty\n",
        "scripts/run.sh": "#!/bin/sh\n",
        "mm/Kconfig": "config MMU\n\tbool\n" + (SYMBOL if age == "selectable" else ""),
        "mm/memory.c": "int memory;\n",
        "mm/mmap_lock.c": "int other;\n" if age == "absent" else LOOKUP,
        "include/linux/mm.h": "/* nothing */\n",
        "fs/proc/task_mmu.c": "int show_map;\n",
    }
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    (path / "scripts/run.sh").chmod(0o755)
    (path / "include/link.h").symlink_to("linux/mm.h")
    return path


def git(path: Path, *argv: str) -> str:
    """Run git in a repository of the test's own; returns its output as text."""
    return git_bytes(path, *argv).decode().replace("\r\n", "\n")


def git_bytes(path: Path, *argv: str) -> bytes:
    """Run git in a repository of the test's own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run([*GIT, "-C", str(path), *argv], env=env, check=True, capture_output=True)
    return done.stdout


def trusting(path: Path) -> dict[str, str]:
    """An environment in which git accepts a repository of another user."""
    setting = {"COUNT": "1", "KEY_0": "safe.directory", "VALUE_0": str(path)}
    return {**os.environ, **{f"GIT_CONFIG_{name}": value for name, value in setting.items()}}


def make_git_tree(path: Path, age: str = "selectable") -> Path:
    """The same tree, committed."""
    make_tree(path, age)
    git(path, "init", "-q")
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "one")
    return path


def make_tarball(path: Path, tree: Path, top: str = "linux-7.2.1") -> Path:
    """A tarball of a tree below one directory; compressed as the suffix says (.tar .gz .xz .bz2 .zst)."""
    plain = path.with_name(f"{path.name}.plain") if path.suffix == ".zst" else path
    compression = path.suffix[1:] if path.suffix in (".gz", ".xz", ".bz2") else ""
    with tarfile.open(plain, f"w:{compression}") as archive:  # type: ignore[call-overload]
        archive.add(tree, top)
    if plain != path:
        subprocess.run(["zstd", "-q", "--rm", "-o", str(path), str(plain)], check=True)
    return path


def snapshot(path: Path) -> dict[str, tuple[int, int, int, int, bytes]]:
    """Everything that a write below a path would change: inode, size, times and content of each entry."""
    found = {}
    for entry in [path, *sorted(path.rglob("*"))]:
        stat = entry.lstat()
        content = entry.read_bytes() if entry.is_file() and not entry.is_symlink() else b""
        found[str(entry)] = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, content)
    return found
