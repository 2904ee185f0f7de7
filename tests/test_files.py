"""A file is whole or not there."""

import pytest

from denoiselab.files import replacing


def test_the_new_file_takes_the_olds_place_only_when_it_is_whole(tmp_path):
    path = tmp_path / "table"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_whatever_fails_on_the_way_the_old_one_stays_and_nothing_beside_it(error, tmp_path):
    path = tmp_path / "table"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
