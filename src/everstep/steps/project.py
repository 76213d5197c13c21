"""Importing the files of a user's project, whatever they are called and however they import each other.

Below a project's ``src/`` and ``steps/`` every folder is a package, with or
without an ``__init__.py``: ``src/orders/charge_step.py`` is the module
``src.orders.charge_step``, so ``from .risk import score`` and ``from ..shared
import x`` work.  ``from shared.thing import x`` means the same file by its name
from ``src/``, and gives the same module: no file is ever loaded twice.

Floor 5.  May import: nothing.  Imported by: discover, dispatch.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDERS = ("src", "steps")


class Project:
    """One project's folders, importable until `close` or until another project is opened."""

    current: Project | None = None

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.folders = [self.root / name for name in FOLDERS if (self.root / name).is_dir()]
        self._twins = _Twins()
        self._short = _ShortNames(self.folders)
        self._added = False  # our root to sys.path

    def open(self) -> None:
        """Make the folders packages; the modules of a project that was open are forgotten."""
        if Project.current is not None:
            Project.current.close()
        Project.current = self
        importlib.invalidate_caches()
        for folder in self.folders:
            there = sys.modules.get(folder.name)
            if there is None or not self._owns(there):
                package = module_from_spec(ModuleSpec(folder.name, None, is_package=True))
                package.__path__ = [str(folder)]
                sys.modules[folder.name] = package
        if str(self.root) not in sys.path:  # for what lies beside the folders
            sys.path.append(str(self.root))
            self._added = True
        # A name below an alias must be asked of us first; a name of its own only
        # when nothing that is installed has it.
        sys.meta_path.insert(0, self._twins)
        sys.meta_path.append(self._short)

    def close(self) -> None:
        """Forget the project's modules; functions that came from them go on working."""
        for finder in (self._twins, self._short):
            if finder in sys.meta_path:
                sys.meta_path.remove(finder)
        if self._added and str(self.root) in sys.path:
            sys.path.remove(str(self.root))
        ours = [
            name
            for name, module in list(sys.modules.items())
            if getattr(module, "__name__", "").split(".")[0] in FOLDERS and self._owns(module)
        ]
        for name in ours:  # only now: a package's path is read from its parent's
            del sys.modules[name]
        if Project.current is self:
            Project.current = None

    def _owns(self, module: ModuleType) -> bool:
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
        return any(Path(place).resolve().is_relative_to(self.root) for place in places if place)

    def load(self, file: Path) -> ModuleType:
        """
        The module of a file below the folders; loaded once, however it was asked for.

        Raises:
            Exception: Whatever the file raises when it is run.
        """
        name = self.name_of(file)
        there = sys.modules.get(name)
        if there is not None and Path(getattr(there, "__file__", None) or "").resolve() == file.resolve():
            return there
        parent, _, leaf = name.rpartition(".")
        if parent:
            importlib.import_module(parent)
        spec = spec_from_file_location(name, file, loader=_Fresh(name, str(file)))
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        if parent:
            setattr(sys.modules[parent], leaf, module)
        return module

    def name_of(self, file: Path) -> str:
        """``src.orders.charge_step``; a dot in a file's own name becomes a dash."""
        relative = file.resolve().relative_to(self.root).with_suffix("")
        return ".".join([*relative.parts[:-1], relative.name.replace(".", "-")])


class _Fresh(SourceFileLoader):
    """Compiles a Step file anew each time: a reload within a second must not find old bytecode."""

    def path_stats(self, path: Any) -> Any:
        raise OSError("no bytecode is kept of Step files")


class _Alias(Loader):
    """Gives an import the module that is already there under its other name."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has set the alias's


class _Twins(MetaPathFinder):
    """A name below an alias is the same name below what it stands for."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        parent, _, leaf = fullname.rpartition(".")
        if not parent or parent not in sys.modules:
            return None
        real = sys.modules[parent].__name__
        if real == parent or real.split(".")[0] not in FOLDERS:
            return None
        return _alias(fullname, f"{real}.{leaf}")


class _ShortNames(MetaPathFinder):
    """``shared`` is ``src.shared``, where nothing that is installed is called so."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if "." in fullname:
            return None
        for folder in self._folders:
            if (folder / fullname).is_dir() or (folder / f"{fullname}.py").is_file():
                return _alias(fullname, f"{folder.name}.{fullname}")
        return None


def _alias(name: str, real: str) -> ModuleSpec | None:
    try:
        module = importlib.import_module(real)
    except ModuleNotFoundError as error:
        if error.name == real:
            return None  # the usual message names what the user wrote
        raise
    return ModuleSpec(name, _Alias(module), origin=module.__file__)
