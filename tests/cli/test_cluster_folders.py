"""`cluster --crops` never mixes the people of two runs."""

from pathlib import Path

import pytest

from mien.cli.cluster import _check_unused
from mien.errors import UsageError


@pytest.mark.parametrize("name", ["person-001", "single"])
def test_a_folder_of_an_earlier_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="earlier run"):
        _check_unused(tmp_path)


def test_new_and_empty_folders_are_taken(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    _check_unused(tmp_path)
    _check_unused(tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["notes"], "a check makes nothing"
