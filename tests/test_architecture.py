"""The layering, read off the imports.

Imports point down: a module may import only from lines below its own, and within a line only from
names to its right. Pure layers import nothing that waits, and foreign packages have one owner each.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent

# From the top line to the bottom; on one line a name may import the names after it. Names joined by
# "|" do not know each other.
LINES = [
    ["hyperfs.__main__"],
    ["hyperfs.cli"],
    ["hyperfs"],
    ["hyperfs.fuse"],
    ["hyperfs.vfs|hyperfs.sync|hyperfs.backup"],
    [
        "hyperfs.moving",
        "hyperfs.refetch",
        "hyperfs.opening",
        "hyperfs.registry",
        "hyperfs.damage",
        "hyperfs.drive",
        "hyperfs.drivereader",
        "hyperfs.collect",
        "hyperfs.whole",
        "hyperfs.cache",
        "hyperfs.compact",
        "hyperfs.watch",
        "hyperfs.versions",
        "hyperfs.walk",
        "hyperfs.held",
        "hyperfs.batch",
        "hyperfs.follow",
        "hyperfs.subscription",
        "hyperfs.committer",
        "hyperfs.recording",
        "hyperfs.dedup",
        "hyperfs.appender",
        "hyperfs.live",
        "hyperfs.writer",
        "hyperfs.reader",
        "hyperfs.content",
        "hyperfs.hyperdrive",
        "hyperfs.view",
        "hyperfs.reach",
        "hyperfs.staging",
        "hyperfs.blobreader",
        "hyperfs.blocks",
        "hyperfs.clearing",
        "hyperfs.changes",
        "hyperfs.pace",
        "hyperfs.paging",
    ],
    [
        "hyperfs.hyperbee",
        "hyperfs.blockset",
        "hyperfs.index",
        "hyperfs.records",
        "hyperfs.delta",
        "hyperfs.dirty",
        "hyperfs.blobs",
        "hyperfs.extents",
        "hyperfs.chunks",
        "hyperfs.paths",
        "hyperfs.links",
        "hyperfs.dates",
    ],
    ["hyperfs.errors"],
    ["corestore"],
    ["corestore.swarm"],
    [
        "corestore.store",
        "corestore.background",
        "corestore.namespace",
        "corestore.transaction",
        "corestore.core",
        "corestore.cosigning",
        "corestore.owner",
        "corestore.handle",
        "corestore.signing|corestore.obtaining|corestore.checking",
        "corestore.reading",
        "corestore.receiving|corestore.link",
        "corestore.channels",
        "corestore.driver",
        "corestore.holdings|corestore.incoming|corestore.inlet|corestore.served|corestore.timers"
        "|corestore.waiting",
        "corestore.ports",
        "corestore.passive",
        "corestore.staging",
        "corestore.state",
        "corestore.durability",
        "corestore.events",
        "corestore.identity",
        "corestore.lease",
        "corestore.conflict",
        "corestore.keyring",
    ],
    ["corestore.wire|corestore.replication|corestore.storage"],
    ["corestore.commit"],
    ["corestore.manifest", "corestore.encryption"],
    ["corestore.tree", "corestore.bitfield"],
    ["corestore.keys", "corestore.crypto", "corestore.encoding", "corestore.codec"],
    ["corestore.errors"],
]
IMPURE_WORDS = {
    "trio",
    "socket",
    "apsw",
    "sqlite3",
    "threading",
    "time",
    "random",
    "os",
    "pathlib",
    "logging",
    "subprocess",
    "asyncio",
}
OWNERS = {
    "nacl": "corestore.crypto",
    "apsw": "corestore.storage",
    "socket": "corestore.swarm",
    "msgpack": "hyperfs.records",
    "pyfuse3": "hyperfs.fuse",
    "click": "hyperfs.cli",
    "rich": "hyperfs.cli",
    "pyfastcdc": "hyperfs.chunks",
}
PURE = {
    "hyperfs.blockset",
    "hyperfs.hyperdrive",
    "hyperfs.blobs",
    "hyperfs.hyperbee",
    "hyperfs.index",
    "hyperfs.records",
    "hyperfs.delta",
    "hyperfs.dirty",
    "hyperfs.extents",
    "hyperfs.chunks",
    "hyperfs.paths",
    "hyperfs.links",
    "hyperfs.errors",
    "corestore.wire",
    "corestore.replication",
    "corestore.commit",
    "corestore.manifest",
    "corestore.encryption",
    "corestore.tree",
    "corestore.bitfield",
    "corestore.keys",
    "corestore.crypto",
    "corestore.encoding",
    "corestore.codec",
    "corestore.errors",
}


def layers():
    """Every layer's (line, position); names that do not know each other share a position."""
    places = {}
    for line, names in enumerate(LINES):
        for position, group in enumerate(names):
            for name in group.split("|"):
                places[name] = (line, position)
    return places


PLACES = layers()


def modules():
    for package in ("corestore", "hyperfs"):
        for path in sorted((TOP / package).rglob("*.py")):
            parts = path.relative_to(TOP).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = list(modules())


def layer_of(module):
    """The layer a module belongs to: its two leading names, or its package's own."""
    return ".".join(module.split(".")[:2])


def is_type_checking(node):
    return isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"


def imports(path, module, *, run_time_only=False):
    """(imported module, line) of everything imported, at run time or for types too."""
    found = []
    tree = ast.parse(path.read_text())
    if run_time_only:
        tree.body = [node for node in tree.body if not is_type_checking(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {name for name, _ in MODULES}
            hits = names & known
            found += [(name, node.lineno) for name in hits]
            if len(hits) < len(names):
                found.append((node.module, node.lineno))
    return found


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_point_down(module, path):
    own = layer_of(module)
    assert own in PLACES, f"{module}: add its layer to LINES, after thinking where it belongs"
    line, position = PLACES[own]
    for imported, number in imports(path, module):
        target = layer_of(imported)
        if not imported.startswith(("corestore", "hyperfs")) or target == own:
            continue
        assert target in PLACES, f"{path}:{number}: {imported} has no layer"
        there, its_position = PLACES[target]
        assert (there, its_position) > (line, position), f"{path}:{number}: {module} -> {imported}"


def rows_of_the_map(package):
    """The modules in each row of the table with which a DESIGN.md begins, from the bottom up."""
    text = (TOP / package / "DESIGN.md").read_text().partition("## The code, from the bottom up")[2]
    cells = [line.split("|")[1] for line in text.partition("\n## ")[0].splitlines() if "|" in line]
    return [names for cell in cells if (names := re.findall(r"`([a-z]+)`", cell))]


@pytest.mark.parametrize("package", ["corestore", "hyperfs"])
def test_the_map_of_modules_is_whole_and_points_down(package):
    rows = rows_of_the_map(package)
    places = {f"{package}.{name}": row for row, names in enumerate(rows) for name in names}
    inside = [(name, path) for name, path in MODULES if name.startswith(f"{package}.")]
    there = {layer_of(name) for name, _ in inside} - {f"{package}.__main__"}
    named = sorted(f"{package}.{name}" for names in rows for name in names)
    assert named == sorted(there), f"the table in {package}/DESIGN.md names each module once"
    for module, path in inside:
        for imported, number in imports(path, module):
            if layer_of(imported) in places and layer_of(module) in places:
                above = places[layer_of(imported)] > places[layer_of(module)]
                assert not above, f"{path}:{number}: {module} -> {imported}, {package}/DESIGN.md"


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_hyperfs_uses_only_what_corestore_exports(module, path):
    if not module.startswith("hyperfs"):
        return
    for imported, number in imports(path, module):
        assert not imported.startswith("corestore."), f"{path}:{number}: {imported}"


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_pure_modules_import_nothing_that_waits(module, path):
    if layer_of(module) not in PURE:
        return
    # A pure module may be handed a `random.Random`, and name its type.
    for imported, number in imports(path, module, run_time_only=True):
        assert imported.split(".")[0] not in IMPURE_WORDS, f"{path}:{number}: {imported}"


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_foreign_packages_have_one_owner(module, path):
    for imported, number in imports(path, module):
        owner = OWNERS.get(imported.split(".")[0])
        assert owner is None or layer_of(module) == owner, f"{path}:{number}: {imported}"


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_only_the_command_line_prints(module, path):
    if module.startswith("hyperfs.cli"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno}"
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
            assert not (isinstance(node.value, ast.Name) and node.value.id == "os"), path


def test_no_name_is_both_a_module_and_something_in_its_package():
    for module, path in MODULES:
        if path.name != "__init__.py":
            continue
        tree = ast.parse(path.read_text())
        names = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        names |= {
            node.name
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        }
        beside = {name.removeprefix(f"{module}.") for name, _ in MODULES if name != module}
        assert not names & beside, f"{path}: {names & beside}"


def test_private_names_stay_in_their_module():
    for module, path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith(
                ("hyperfs", "corestore")
            ):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{module} imports {private} of {node.module}"
