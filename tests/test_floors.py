"""The house rules that imports can break: a room imports only from floors below its own."""

import ast
from pathlib import Path

import pytest

import r1jax

FLOORS = {
    "base": 0,
    "model": 1,
    "learn": 2,
    "rollout": 2,
    "reward": 2,
    "data": 2,
    "collate": 2.2,  # these: what the stages share
    "loop": 2.2,
    "policies": 2.2,
    "supervised": 2.4,
    "responses": 2.4,
    "scoring": 2.6,
    "survey": 2.6,
    "judging": 2.6,
    "experience": 2.8,
    "rollouts": 2.9,
    "stages": 3,
    "report": 3,
    "recipe": 4,
    "plan": 4,
    "bindings": 4.5,
    "main": 5,
}
ONLY = {"gin": {"bindings"}, "flax.linen": {"model"}}  # who alone may import it
NO_JAX = {"reward", "data"}  # their worker processes start fast and never touch a device


def imports(file: Path) -> set[str]:
    """The modules and names that a file imports, anywhere in it, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def needs_jax(file: Path, package: Path, seen: set[Path]) -> bool:
    """Whether importing a file imports jax, through other files of the package too."""
    if file in seen:
        return False
    seen.add(file)
    for name in imports(file):
        if within(name, "jax") or within(name, "flax") or within(name, "optax"):
            return True
        parts = name.split(".")
        for end in range(2, len(parts) + 1):
            other = package.parent.joinpath(*parts[:end]).with_suffix(".py")
            if other.exists() and needs_jax(other, package, seen):
                return True
    return False


def complaints(package: Path) -> list[str]:
    """What the files of a package do against the rules, a line each."""
    wrong, basenames = [], {}
    for file in sorted(package.rglob("*.py")):
        where = file.relative_to(package)
        if file.name != "__init__.py":
            other = basenames.setdefault(file.name, where)
            if other != where:
                wrong.append(f"{where} has the basename of {other}")
        room = where.parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        if room not in FLOORS:
            wrong.append(f"{where} stands on no floor")
            continue
        for name in imports(file):
            if name.startswith("."):
                wrong.append(f"{where} imports {name} relatively")
            if within(name, package.name):
                target = name.split(".")[1] if "." in name else "the whole package"
                if target != room and not FLOORS.get(target, 9) < FLOORS[room]:
                    wrong.append(f"{where} imports {name}, which is not below it")
            for module, rooms in ONLY.items():
                if within(name, module) and room not in rooms:
                    wrong.append(f"{where} imports {module}, only {', '.join(rooms)} may")
        if room in NO_JAX and needs_jax(file, package, set()):
            wrong.append(f"{where} needs jax, {room} must not")
    return wrong


def test_the_house_stands():
    assert complaints(Path(r1jax.__file__).parent) == []


@pytest.mark.parametrize(
    "file, source, complaint",
    [
        ("base/devices.py", "from r1jax.model import lm", "base/devices.py imports r1jax.model.lm, which is not"),
        ("learn/grpo.py", "import r1jax.rollout.loop", "learn/grpo.py imports r1jax.rollout.loop, which is not"),
        ("learn/grpo.py", "def f():\n    from r1jax.loop import Loop", "learn/grpo.py imports r1jax.loop.Loop, which"),
        ("recipe.py", "from r1jax import plan", "recipe.py imports r1jax.plan, which is not below it"),
        ("learn/grpo.py", "from ..model import lm", "learn/grpo.py imports ..model.lm relatively"),
        ("recipe.py", "import gin", "recipe.py imports gin, only bindings may"),
        ("recipe.py", "from gin import config", "recipe.py imports gin, only bindings may"),
        ("learn/grpo.py", "from flax import linen as nn", "learn/grpo.py imports flax.linen, only model may"),
        ("reward/answers.py", "import jax.numpy as jnp", "reward/answers.py needs jax, reward must not"),
        ("data/tasks.py", "from r1jax.base.devices import f", "data/tasks.py needs jax, data must not"),
        ("model/mesh.py", "", "model/mesh.py has the basename of base/mesh.py"),
        ("utils.py", "", "utils.py stands on no floor"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, file, source, complaint):
    package = tmp_path / "r1jax"
    good = {
        "__init__.py": "",
        "base/__init__.py": "",
        "base/mesh.py": "import os",
        "base/devices.py": "import jax",
        "model/lm.py": "import flax.linen as nn\nfrom r1jax.base.mesh import AXES\nfrom r1jax.model import rope",
        "reward/format.py": "from r1jax.base import mesh",
        "stages/pretrain.py": "from r1jax.loop import Loop\nfrom r1jax.model.lm import Lm\nfrom flax import struct",
        "bindings.py": "import gin\nfrom r1jax import recipe",
        "main.py": "from r1jax import bindings, recipe",
    }
    for name, text in good.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert complaints(package) == []
    (package / file).parent.mkdir(exist_ok=True)
    (package / file).write_text(source)
    found = complaints(package)
    assert len(found) == 1 and found[0].startswith(complaint)
