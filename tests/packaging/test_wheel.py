"""The wheel holds the package alone, and works outside of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from mllama import __version__
from mllama.demo_model import PICTURES

REPOSITORY = Path(__file__).resolve().parents[2]

PAGE = """
import asyncio

import httpx

from mllama.max_compat.server import ServingTokenGeneratorSettings, Settings
from mllama.server.options import ServerOptions
from mllama.server.routes import new_application
from mllama.server.web.routes import page_files

serving = ServingTokenGeneratorSettings(
    model_factory=None, pipeline_config=None, tokenizer=None
)
app = new_application(
    Settings(), serving, ServerOptions(host="127.0.0.1", port=8000)
)


async def main():
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost"
    ) as client:
        page = await client.get("/", headers={"Accept": "text/html"})
        print(page.raise_for_status().text)
        for name in page_files():
            (await client.get(f"/page/{name}")).raise_for_status()


asyncio.run(main())
"""
"""Gets the page and its files from the server's application, without a model."""


@dataclass(frozen=True)
class Distributions:
    """The built files."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--outdir", folder, REPOSITORY], folder)
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    return Distributions(wheel, sdist)


def run(command: list[str | Path], directory: Path) -> str:
    """Runs a command that must succeed; returns what it writes to stdout."""
    environment = {
        name: value
        for name, value in os.environ.items()
        # What would let the command find this repository or this environment.
        if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(
    distributions: Distributions,
) -> None:
    names = set(zipfile.ZipFile(distributions.wheel).namelist())
    metadata = f"mllama-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"mllama", metadata}
    package = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "mllama").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("mllama/")} == package
    assert f"{metadata}/licenses/LICENSE" in names


def test_the_sdist_has_no_folder_of_the_environment(
    distributions: Distributions,
) -> None:
    with tarfile.open(distributions.sdist) as archive:
        folders = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert {"mllama", "pyproject.toml", "README.md", "LICENSE"} <= folders
    assert not folders & {".venv", "build", "dist", ".bench"}


def test_the_installed_wheel_answers(
    distributions: Distributions, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    run([sys.executable, "-m", "venv", environment], tmp_path)
    python = environment / "bin" / "python"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if uv:
        install: list[str | Path] = [uv, "pip", "install", "--python", python]
    else:
        run([python, "-m", "pip", "install", "pip==26.3"], tmp_path)
        install = [python, "-m", "pip", "install"]
    run([*install, distributions.wheel], tmp_path)

    mllama = environment / "bin" / "mllama"
    assert run([mllama, "--version"], tmp_path).startswith(f"mllama {__version__} ")
    report = run([mllama, "doctor"], tmp_path)
    assert __version__ in report
    assert "unknown (" not in report
    assert '<script type="module"' in run([python, "-c", PAGE], tmp_path)
    answers = run([mllama, "demo"], tmp_path)
    assert str(environment) in answers
    for picture in PICTURES:
        for question in picture.questions:
            assert f"{question.text}\nAnswer:   {question.answer}\n" in answers
