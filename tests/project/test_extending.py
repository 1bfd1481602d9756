# SPDX-License-Identifier: GPL-2.0-only
"""docs/extending.md: each recipe is followed to the letter in a copy, and what it adds is used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from orchestrator.core import arch

PAGE = ROOT / "docs/extending.md"
CONTAINERS = ("orchestrator", "kconfigs", "guest", "selftests")


def recipe(heading: str) -> str:
    body: str
    (body,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return body


class Checkout:
    """A copy of what the tool is, and what one does in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in CONTAINERS:
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))

    def follow(self, heading: str) -> None:
        """Create, append and run what a recipe says, in its order; `orchestrate` is that of the copy."""
        steps = 0
        for how, name, language, block in re.findall(
            r"(?:(Create|Append to)\s+`([^`]+)`:\n\n)?^```(\w+)\n(.*?)^```$", recipe(heading), re.M | re.S
        ):
            if how:
                path = self.root / name
                path.parent.mkdir(exist_ok=True)
                assert path.exists() == (how == "Append to"), name
                with path.open("a", encoding="utf-8") as file:
                    file.write(block if how == "Create" else f"\n{block}")
            elif language == "sh":
                subprocess.run(["sh", "-eu", "-c", block], cwd=self.root, env=self.environment(), check=True)
            steps += bool(how) or language == "sh"
        assert steps

    def environment(self) -> dict[str, str]:
        (bin_ := self.root / "bin").mkdir(exist_ok=True)
        command = bin_ / "orchestrate"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m orchestrator.cli.main "$@"\n')
        command.chmod(0o755)
        path = f"{bin_}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PYTHONPATH": str(self.root), "ORCHESTRATE_CONFIG": os.devnull}

    def python(self, code: str) -> str:
        """What a program prints that imports the copy."""
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.root,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def listing(self) -> str:
        done = subprocess.run(
            ["orchestrate", "list"],
            cwd=self.root,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_copy_is_what_is_tested(checkout: Checkout) -> None:
    printed = checkout.python("from orchestrator.core import data; print(data.kconfigs())")
    assert printed == str(checkout.root / "kconfigs")


def test_architecture(checkout: Checkout) -> None:
    checkout.follow("An architecture")
    assert "loongarch64" not in arch.names()
    assert re.search(r"^architectures:.*\bloongarch64\b", checkout.listing(), re.M)
    used = checkout.python(
        "from orchestrator.core import arch; from orchestrator.kernel import kconfig\n"
        "print(arch.load('loongarch64').name)\n"
        "for each in kconfig.own_fragments('loongarch64', 'mmap-lock'): print(each.name)"
    )
    assert used.splitlines()[0] == "loongarch64"
    assert any("loongarch64.config" in line for line in used.splitlines()[1:])


def test_variant(checkout: Checkout) -> None:
    checkout.follow("A variant")
    assert re.search(r"^variants:.*\bmmap-lock-hugepage\b", checkout.listing(), re.M)
    used = checkout.python(
        "from orchestrator.kernel import kconfig\n"
        "last = kconfig.own_fragments('x86_64', 'mmap-lock-hugepage')[-1]\n"
        "print(*(f'{each.symbol}={each.value}' for each in last.requests()))"
    )
    assert used == "PER_VMA_LOCK=n TRANSPARENT_HUGEPAGE=y"


def test_flavor(checkout: Checkout) -> None:
    checkout.follow("A flavor")
    assert re.search(r"\batomic\b", checkout.listing())
    used = checkout.python(
        "from orchestrator.kernel import flavor\neach = flavor.load('atomic')\n"
        "print(each.reason, each.slower, *(r.symbol for r in each.fragment.requests()), sep='|')"
    )
    assert used == "sleeping where the kernel must not sleep|2.0|DEBUG_ATOMIC_SLEEP"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_suite(checkout: Checkout) -> None:
    checkout.follow("A suite")
    assert re.search(r"^  hello +the smallest suite$", checkout.listing(), re.M)
    used = checkout.python(
        "import os, pathlib, subprocess\n"
        "from orchestrator.core import arch, store; from orchestrator.suites import build, catalog\n"
        "host = next(a for n in arch.names() if os.uname().machine in (a := arch.load(n)).machines)\n"
        "place = store.Store(pathlib.Path('cache').resolve())\n"
        "log = pathlib.Path('log')\n"
        "programs = build.build(catalog.load('hello'), tree=None, arch=host, store=place, log=log)\n"
        "print(*programs, subprocess.run(programs['hello']).returncode)"
    )
    assert used == "hello 0"


def test_compile_only_configuration(checkout: Checkout) -> None:
    checkout.follow("A compile-only configuration")
    assert re.search(r"^also built:.*\barm64-16k\b", checkout.listing(), re.M)
    used = checkout.python(
        "from orchestrator.kernel import compile_only\n"
        "each = compile_only.load('arm64-16k'); print(each.make_arch, *each.symbols)"
    )
    assert used == "arm64 CONFIG_ARM64_16K_PAGES=y"


def test_probe_point(checkout: Checkout) -> None:
    checkout.follow("A suite")
    checkout.follow("A probe point")
    used = checkout.python(
        "from orchestrator.kernel import probe_points; from orchestrator.suites import catalog\n"
        "point = probe_points.catalogue()['maps-opened']\n"
        "(program,) = catalog.load('hello').program\n"
        "print(point.function, *program.widen)"
    )
    assert used == "proc_maps_open maps-opened"


def test_the_page_has_no_other_recipe() -> None:
    headings = re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.M)
    assert headings == [
        "An architecture",
        "A variant",
        "A flavor",
        "A suite",
        "A compile-only configuration",
        "A probe point",
    ]
