"""PyInstaller's hook: what a frozen application needs of mien besides the modules that imports name.

PyInstaller reads `datas`, `hiddenimports` and `excludedimports` of this file.
"""  # noqa: N999 (the name is PyInstaller's)

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
# Modules that are imported on first use, by name.
LAZY = ("inference", "io", "recognition", "selection", "tasks", "video", "visualize")

# The networks with their provenance, the page, and the templates of drawings.
datas = [
    (str(file), str(Path("mien", file.parent.relative_to(PACKAGE))))
    for file in sorted(PACKAGE.rglob("*"))
    if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts
]
# Predicting needs no torch. mien names it for type checkers and in training, which stays outside of an
# application; an application that imports torch itself still gets it.
excludedimports = ["torch"]
hiddenimports = [
    ".".join(("mien", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for name in LAZY
    for file in sorted((PACKAGE / name).rglob("*.py"))
]
