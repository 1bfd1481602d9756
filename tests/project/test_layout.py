# SPDX-License-Identifier: GPL-2.0-only
"""The tests are laid out like the packages: a module's test is found by the module's name."""

from __future__ import annotations

from pathlib import Path

from paths import ROOT, TESTS

#: Folders that no room has: the guest programs, real guests, long proofs, what holds the project together.
BESIDE = {"selftests", "guest", "long", "project"}
#: Tests in a room that are of no single module there, and why.
ALONE = {
    "bisect/test_simulate_bisect.py": "the simulation and its page, tests/simulate_bisect.py",
    "cell/test_hostile_guest.py": "whatever a guest sends, through all rooms that read it",
    "engine/test_conformance.py": "what holds of every engine",
    "kernel/test_hostile_builds.py": "attacks of makefiles, kills and wrong caches, across the room",
    "splat/test_corpus.py": "the scanner on a public collection, where there is one",
    "suites/test_user_suites.py": "a user's suite from its folder to its verdict",
}


def misplaced(tests: Path, package: Path) -> list[str]:
    """One line for each test without its module, by the layout of the package."""
    lines = []
    for path in sorted(tests.rglob("test_*.py")):
        name = path.relative_to(tests)
        room = name.parent
        if name.parts[0] in BESIDE or name.as_posix() in ALONE:
            continue
        if room == Path():
            lines.append(f"tests/{name}: it lies in no room")
        elif not (package / room / "__init__.py").is_file():
            lines.append(f"tests/{name}: there is no room orchestrator/{room}")
        elif not (module := package / room / name.name.removeprefix("test_")).is_file():
            lines.append(f"tests/{name}: there is no module {module.relative_to(package.parent)}")
    return lines


def test_each_test_has_its_module() -> None:
    assert misplaced(TESTS, ROOT / "orchestrator") == []
    assert [name for name in ALONE if not (TESTS / name).is_file()] == [], "exceptions of tests that are gone"


def test_a_misplaced_test_is_named(tmp_path: Path) -> None:
    for name in ("orchestrator/vm/__init__.py", "orchestrator/vm/ssh.py", "tests/vm/test_ssh.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert misplaced(tmp_path / "tests", tmp_path / "orchestrator") == []
    for name in ("test_loose.py", "vm/test_gone.py", "nowhere/test_a.py", "guest/test_b.py"):
        (tmp_path / "tests" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "tests" / name).touch()
    assert misplaced(tmp_path / "tests", tmp_path / "orchestrator") == [
        "tests/nowhere/test_a.py: there is no room orchestrator/nowhere",
        "tests/test_loose.py: it lies in no room",
        "tests/vm/test_gone.py: there is no module orchestrator/vm/gone.py",
    ]
