"""The Dockerfile is sound, and the image has exactly what the package needs."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

from tests.deploy.files import DEPLOY, ROOT

DOCKERFILE = DEPLOY / "Dockerfile"


def instructions(name: str) -> list[list[str]]:
    """Returns the words of each instruction of a kind in the Dockerfile."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    return [
        line.split()[1:] for line in text.splitlines() if line.startswith(f"{name} ")
    ]


@pytest.mark.parametrize("folder", [".", "kuberay"])
def test_hadolint_has_nothing_to_say(folder: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, DEPLOY / folder / "Dockerfile"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_base_image_has_a_version_and_the_user_is_a_number() -> None:
    stages = {words[2] for words in instructions("FROM") if len(words) == 3}
    bases = [words[0] for words in instructions("FROM") if words[0] not in stages]
    assert len(bases) == 1
    assert re.fullmatch(r"debian:\d+\.\d+-slim", bases[0])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", instructions("USER")[-1][0])


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    copied = [
        source
        for words in instructions("COPY")
        if not words[0].startswith("--from")
        for source in words[:-1]
    ]
    assert sorted(copied) == sorted(kept)
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_the_pinned_libraries_meet_the_packages_requirements() -> None:
    pins = dict(
        line.split("==")
        for line in (DEPLOY / "requirements.txt").read_text().splitlines()
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    unmet = [
        text
        for text in project["dependencies"]
        for needed in [Requirement(text)]
        if not needed.specifier.contains(pins.get(needed.name.replace("_", "-"), "0"))
    ]
    assert unmet == []
    # The tools of development are not in the image.
    assert [name for name in pins if fnmatch(name, "torch*")] == []
