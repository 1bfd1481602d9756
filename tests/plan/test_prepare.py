# SPDX-License-Identifier: GPL-2.0-only
"""What can be wrong before a run starts: labels, several kernels, choices that do not fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes.images import arm64_image, bzimage
from fakes.linux import make_linux

from orchestrator.core.errors import UserError
from orchestrator.core.store import Store
from orchestrator.kernel.kconfig import WITH, WITHOUT
from orchestrator.plan import prepare
from orchestrator.plan.choices import Choices, Source
from orchestrator.plan.inputs import Inputs, digests, not_applicable
from orchestrator.plan.options import Options, choose, sources
from orchestrator.plan.target import Target
from orchestrator.suites import catalog

BOTH = (WITH, WITHOUT)


@pytest.mark.parametrize(
    ("word", "label", "spec"),
    [
        ("~/linux", "", "~/linux"),
        ("base=~/linux@v6.16", "base", "~/linux@v6.16"),
        ("v6.18", "", "v6.18"),
        ("old=v6.12", "old", "v6.12"),
        ("debian:x/y=z", "", "debian:x/y=z"),
        ("./a=b", "", "./a=b"),
        ("https://host/x?a=b", "", "https://host/x?a=b"),
        ("n=x=y", "n", "x=y"),
        ("n=", "n", ""),
    ],
)
def test_labels(word: str, label: str, spec: str) -> None:
    assert prepare.split_label(word) == (label, spec)


def test_what_exists_has_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    assert prepare.split_label("a=b") == ("", "a=b")


@pytest.mark.parametrize("word", ["=x", "a b=x", "-a=x", "ü=x", "a" * 60 + "=x"])
def test_a_label_must_do_as_a_file_name(word: str) -> None:
    with pytest.raises(UserError, match="cannot be a label"):
        prepare.split_label(word)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_patch_is_for_the_first_source_or_for_the_one_that_is_named(tmp_path: Path) -> None:
    found = sources(
        Options(sources=("a=x", "b=y"), patches=("1.mbox", "b=2.mbox", "b=3.mbox"), digests=("b=12",))
    )
    assert found == (
        Source(label="a", spec="x", patches=(f"{tmp_path}/1.mbox",)),
        Source(label="b", spec="y", patches=(f"{tmp_path}/2.mbox", f"{tmp_path}/3.mbox"), sha256="12"),
    )


def test_a_label_that_no_source_has() -> None:
    with pytest.raises(UserError, match="no --source called 'c'"):
        sources(Options(sources=("a=x",), patches=("c=1.mbox",)))


def test_a_patch_without_a_source_is_for_the_default_one(tmp_path: Path) -> None:
    (found,) = sources(Options(patches=("1.mbox",)))
    assert (found.spec, found.patches) == ("", (f"{tmp_path}/1.mbox",))


def test_a_patch_needs_a_source_and_not_an_image() -> None:
    with pytest.raises(UserError, match="no --source"):
        sources(Options(kernels=("bzImage",), patches=("1.mbox",)))


class Place:
    def __init__(self, top: Path) -> None:
        self.top, self.store = top, Store(top / "cache")

    def tree(self, name: str, **more: Any) -> str:
        return str(make_linux(self.top / name, **more).path)

    def image(self, name: str, content: bytes) -> str:
        (self.top / name).write_bytes(content)
        return str(self.top / name)

    def targets(self, *sources: Source) -> tuple[Target, ...]:
        choices = Choices(arches=("x86_64",), variants=BOTH, sources=sources)
        return prepare.targets(choices, self.store, print)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_kernel_is_called_by_its_version_unless_it_is_given_a_label(place: Place) -> None:
    tree = place.tree("a")
    (plain,) = place.targets(Source(spec=tree))
    (named,) = place.targets(Source(spec=tree, label="mine"))
    assert plain.label == plain.version
    assert named.label == "mine"


def test_two_of_one_version_are_told_apart(place: Place) -> None:
    first, second = place.tree("a"), place.tree("b")
    (Path(second) / "README").write_text("another one")
    labels = [t.label for t in place.targets(Source(spec=first), Source(spec=second))]
    assert len(set(labels)) == 2
    with pytest.raises(UserError, match="two kernels are called 'x'"):
        place.targets(Source(spec=first, label="x"), Source(spec=second, label="x"))
    with pytest.raises(UserError, match="same kernel is named twice"):
        place.targets(Source(spec=first), Source(spec=first))


def test_an_image_is_for_its_own_arch(place: Place) -> None:
    (target,) = place.targets(Source(image=place.image("Image", arm64_image("7.2-x"))))
    choices = Choices(arches=("x86_64",), variants=BOTH, commands=("true",))
    the_plan = prepare.plan(choices, [target], prepare.suites(choices))
    assert {(c.label, c.arch, c.variant) for c in the_plan.cells} == {("7.2-x", "arm64", v) for v in BOTH}


def test_an_image_has_no_selftests(place: Place) -> None:
    (target,) = place.targets(Source(image=place.image("bzImage", bzimage())))
    choices = Choices(arches=("x86_64",), variants=BOTH, suites=("maps",))
    with pytest.raises(UserError, match="'maps' is built from a kernel tree") as caught:
        prepare.plan(choices, [target], prepare.suites(choices))
    assert "--selftests-from" in caught.value.remedy


def test_the_variant_of_an_image_is_known_once_it_ran(place: Place) -> None:
    (target,) = place.targets(Source(image=place.image("bzImage", bzimage())))
    inputs = Inputs(
        targets={target.label: target}, suites={}, choices=Choices(arches=("x86_64",), variants=BOTH)
    )
    assert [not_applicable(inputs, target, v) for v in BOTH] == ["", ""]
    assert not_applicable(inputs, target, WITHOUT, prebuilt_variant=WITHOUT) == ""
    assert "lacks per-VMA locks" in not_applicable(inputs, target, WITH, prebuilt_variant=WITHOUT)


def test_an_image_is_booted_as_it_was_when_it_was_looked_at(place: Place) -> None:
    path = Path(place.image("bzImage", bzimage()))
    (target,) = place.targets(Source(image=str(path)))
    path.write_bytes(bzimage("9.9.9") + b"built anew meanwhile")
    assert target.prebuilt is not None
    assert target.prebuilt.kernel().image.read_bytes() == bzimage()


def test_what_a_resumed_run_reads_must_be_what_it_was(place: Place) -> None:
    suite = place.top / "mine"
    suite.mkdir()
    toml = 'name = "mine"\ndescription = "d"\nfiles = ["data"]\n[[program]]\nname = "p"\n'
    files = {
        "suite.toml": toml,
        "p.c": '#include "p.h"\nint main(void) { return 0; }\n',
        "p.h": "",
        "data": "1",
    }
    for name, text in files.items():
        (suite / name).write_text(text)
    fragment = place.top / "f.config"
    fragment.write_text("CONFIG_SMP=y\n")
    base = place.top / "base.config"
    base.write_text("CONFIG_SMP=y\n")
    targets = place.targets(Source(spec=place.tree("a")))

    def inputs() -> dict[str, str]:
        choices = Choices(
            arches=("x86_64",),
            variants=BOTH,
            suites=(str(suite),),
            kconfig=(str(fragment),),
            config=str(base),
        )
        suites = prepare.suites(choices)
        return digests(prepare.inputs(choices, targets, suites, place.store))

    before = inputs()
    assert inputs() == before
    seen = {tuple(before.items())}
    for path in (suite / "suite.toml", suite / "p.c", suite / "p.h", suite / "data", fragment, base):
        path.write_text(
            path.read_text() + "\n# another word\n".replace("#", "//" if path.suffix[1:] in "ch" else "#")
        )
        seen.add(tuple(inputs().items()))
    assert len(seen) == 7, "each of the six changes shows"


def test_nobodys_home_is_wrong_usage(place: Place) -> None:
    with pytest.raises(UserError, match="no such home folder"):
        place.targets(Source(image="~nosuchuser/bzImage"))


def test_an_image_of_another_arch_than_was_named(place: Place) -> None:
    options = Options(kernels=(place.image("Image", arm64_image()),), arches=("x86_64",))
    with pytest.raises(UserError, match="is a kernel of arm64"):
        choose(options)


def test_put_is_for_commands(place: Place) -> None:
    choices = Choices(arches=("x86_64",), variants=BOTH, suites=("maps",), put=("/etc/passwd",))
    with pytest.raises(UserError, match="--put needs a --cmd"):
        prepare.suites(choices)


def test_two_suites_of_one_name(place: Place) -> None:
    for name in ("one", "two"):
        folder = place.top / name
        folder.mkdir()
        (folder / "suite.toml").write_text(
            'name = "mine"\ndescription = "d"\n[[program]]\nname = "p"\nscript = "p.sh"\n'
        )
        (folder / "p.sh").write_text("#!/bin/sh\n")
        (folder / "p.sh").chmod(0o755)
    both = (str(place.top / "one"), str(place.top / "two"))
    with pytest.raises(UserError, match="two suites are called 'mine'"):
        prepare.suites(Choices(arches=("x86_64",), variants=BOTH, suites=both))


def test_the_users_base_must_be_text(place: Place) -> None:
    (target,) = place.targets(Source(spec=place.tree("a")))
    for config in (str(place.top / "nosuch"), str(place.top)):
        choices = Choices(arches=("x86_64",), variants=BOTH, config=config)
        with pytest.raises(UserError, match="--config"):
            prepare.inputs(choices, [target], (), place.store)


def test_default_suites_are_there() -> None:
    choices = Choices(arches=("x86_64",), variants=BOTH, suites=catalog.DEFAULT, commands=("true",))
    assert [s.name for s in prepare.suites(choices)] == [*catalog.DEFAULT, catalog.COMMAND]
