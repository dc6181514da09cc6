"""What pip installs, and what `import keras_resnet18` gives and costs."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import keras_resnet18

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_resnet18"

# What the package is made of besides its modules.
DATA_FILES = {
    *("py.typed", "imagenet_classes.csv", "reports/card.md", "reports/report.html"),
    *("checking/labels.html", "classify/page.css"),
    *(f"recipes/{name}.toml" for name in ("digits", "finetune", "photos", "small-images")),
}


def test_importing_the_package_imports_no_framework(run_python):
    printed = run_python("import keras_resnet18, sys; print(*sorted(sys.modules), sep='\\n')")
    imported = {name.partition(".")[0] for name in printed.split()}
    assert "keras_resnet18" in imported
    assert not imported & {"tensorflow", "keras", "numpy", "jax", "PIL", "sklearn", "matplotlib"}


def test_every_extra_that_a_message_tells_to_install_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sources = [*PACKAGE.rglob("*.py"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    named = {
        extra
        for source in sources
        for extras_of in re.findall(r"(?:keras-resnet18|'\.)\[(.+?)\]", source.read_text("utf-8"))
        for extra in extras_of.split(",")
    }
    assert named >= {"gpu", "onnx", "torch"} and named <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("name", keras_resnet18.__all__)
def test_every_public_name_can_be_had_and_says_what_it_is(name):
    value = getattr(keras_resnet18, name)
    assert isinstance(value, str) or value.__doc__
    assert name in dir(keras_resnet18)


def test_what_a_type_checker_sees_is_what_python_finds():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.name: node.module.removeprefix("keras_resnet18.")
        for node in block.body
        for alias in node.names
    }
    assert seen == keras_resnet18._HOMES


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'build_resnet50'"):
        keras_resnet18.build_resnet50  # noqa: B018
    with pytest.raises(ImportError):
        from keras_resnet18 import build_resnet50  # noqa: F401


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, so that the checkout keeps no traces of it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("keras_resnet18", "tests", "training"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run(
        [*command, str(source)], cwd=out, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    version = keras_resnet18.__version__
    assert wheel.name == f"keras_resnet18-{version}-py3-none-any.whl"
    modules = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}
    info = f"keras_resnet18-{version}.dist-info"
    about = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")
    assert set(zipfile.ZipFile(wheel).namelist()) == {
        f"keras_resnet18/{name}" for name in modules | DATA_FILES
    } | {f"{info}/{name}" for name in about}


def test_the_wheel_works_where_there_is_no_checkout(wheel, run_python, tmp_path):
    folder = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, "--target", str(folder), str(wheel)], check=True, cwd=tmp_path)
    program = """
import json, keras_resnet18
from importlib import metadata
from keras_resnet18.preprocess import imagenet_classes
print(json.dumps([keras_resnet18.__file__, metadata.version("keras-resnet18"),
                  keras_resnet18.__version__, len(imagenet_classes())]))
"""
    file, *rest = json.loads(run_python(program, PYTHONPATH=str(folder)))
    assert Path(file) == folder / "keras_resnet18" / "__init__.py"
    assert rest == [keras_resnet18.__version__] * 2 + [1000]
