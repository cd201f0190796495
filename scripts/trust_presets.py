"""The presets of ``load(trusted=)``: ``python -m scripts.trust_presets [--write]``.

It dumps the objects of each library that ``trust_presets_objects.py`` makes, and collects the names in their files. It
prints what is new since the last time, and why names are left out. With ``--write``, it writes them to
``trust/_presets.py``. Names are only added: files of earlier releases have to load too. Look at each new class before
you commit it: what do its methods ``__setstate__``, ``__hash__``, ``__eq__``, ``__setitem__`` and ``append`` do with a
state that an attacker has chosen?
"""

from __future__ import annotations

import importlib
import io
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import shoal
from scripts.trust_presets_objects import OBJECTS
from shoal.persistence.trust._presets import PRESETS
from shoal.persistence.trust._reconstructors import RECONSTRUCTORS

TABLE = Path(shoal.__file__).parent / "persistence" / "trust" / "_presets.py"

#: What the names of a preset belong to: the preset contains those of these presets as well.
INCLUDED = {"numpy": (), "scipy": ("numpy",), "scikit-learn": ("numpy", "scipy"), "pandas": ("numpy",)}
#: The packages whose classes a preset may contain. Some releases of scikit-learn call one of its modules ``_loss``.
PACKAGES = {
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "scikit-learn": ("sklearn", "_loss"),
    "pandas": ("pandas", "pyarrow"),
}

#: Methods that run while a file is loaded. A class that defines one of them in Python is reported.
RUNS = ("__setstate__", "__new__", "__setitem__", "__hash__", "__eq__", "append", "extend", "add")


def names_in(value: Any) -> tuple[str, ...]:
    """Return the names in the file of an object, except those that every file may contain."""
    file = io.BytesIO()
    shoal.dump(value, file)
    file.seek(0)
    return shoal.inspect(file).untrusted


def collected(preset: str) -> dict[str, str]:
    """Return the names in the files of a library's objects, and an example of a class for each."""
    found: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for value in OBJECTS[preset]():
            for name in names_in(value):
                found.setdefault(name, type(value).__qualname__)
    return found


def reason_against(name: str, preset: str) -> str | None:
    """Return why a name is no part of a preset: it is neither a class of the library, nor in the table of callables."""
    if name == "functools.partial":  # only of a function that checks data, see _reconstructors.py
        return None
    libraries = {package for part in (preset, *INCLUDED[preset]) for package in PACKAGES[part]}
    if name.split(".")[0] not in libraries:
        return "it belongs to another library"
    if name in RECONSTRUCTORS:
        return None
    module, _, qualname = name.rpartition(".")
    value = getattr(importlib.import_module(module), qualname)
    if not isinstance(value, type):
        return "it is not a class, and not in _reconstructors.py"
    if value.__module__.split(".")[0] not in libraries:
        return f"{value.__module__} defines it"
    if issubclass(value, BaseException) or any(part.startswith("test") for part in module.split(".")):
        return "no object needs it"
    return None


def methods_that_run(name: str) -> list[str]:
    """Return the methods of a class, written in Python, that run while a file is loaded."""
    if name in RECONSTRUCTORS:
        return []
    module, _, qualname = name.rpartition(".")
    value = getattr(importlib.import_module(module), qualname)
    if not isinstance(value, type):
        return []
    found = [(method, getattr(value, method, None)) for method in RUNS]
    return [method for method, function in found if hasattr(function, "__code__")]


def table(names: dict[str, set[str]]) -> str:
    """Return the text of ``_presets.py``."""
    lines = [TABLE.read_text(encoding="utf-8").partition("\n_NAMES")[0], "_NAMES: dict[str, dict[str, str]] = {"]
    for preset, found in names.items():
        lines.append(f'    "{preset}": {{')
        modules: dict[str, list[str]] = defaultdict(list)
        for name in sorted(found):
            module, _, last = name.rpartition(".")
            modules[module].append(last)
        for module, members in modules.items():
            lines += entry(module, members)
        lines.append("    },")
    lines.append("}\n")
    lines.append(TABLE.read_text(encoding="utf-8").partition("\n}\n")[2].lstrip("\n"))
    return "\n".join(lines)


def entry(module: str, members: list[str]) -> list[str]:
    """Return the lines of one module."""
    line = f'        "{module}": "{" ".join(members)}",'
    if len(line) <= 120:
        return [line]
    lines, text = [f'        "{module}": "'], ""
    for member in members:
        if len(text) + len(member) > 95:
            lines.append(f'        "{text}')
            text = ""
        text += f"{member} "
    parts = [part.removeprefix('        "') for part in lines[1:]] + [text.rstrip()]
    return [f'        "{module}": (', *(f'            "{part}"' for part in parts), "        ),"]


def main(arguments: list[str]) -> int:
    """Collect the names, report what is new, and write the table."""
    names: dict[str, set[str]] = {}
    for preset, included in INCLUDED.items():
        known = set().union(*(names[other] for other in included))
        names[preset] = set(PRESETS.get(preset, ())) - set().union(*(PRESETS.get(other, ()) for other in included))
        for name, example in sorted(collected(preset).items()):
            if name in known or name in names[preset]:
                continue
            reason = reason_against(name, preset)
            if reason is not None:
                print(f"{preset}: {name} ({example}) is left out: {reason}")
                continue
            print(f"{preset}: {name} ({example}) is new; {', '.join(methods_that_run(name)) or 'nothing'} would run")
            names[preset].add(name)
    if "--write" in arguments:
        TABLE.write_text(table(names), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
