"""What is given wrongly to a program of training/ costs it one line, and no traceback."""

from __future__ import annotations

import degradation
import kill_and_resume
import pytest
import robustness
import transfer


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (degradation.main, ["FOLDER", "--epochs=0"]),
        (degradation.main, ["FOLDER", "--images=many"]),
        (transfer.main, ["FOLDER", "--pretraining-epochs=-1"]),
        (kill_and_resume.main, ["FOLDER", "--kills=0"]),
        (robustness.main, ["RUN", "--images=0"]),
    ],
)
def test_numbers_of_things_are_1_or_more(main, arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "must be 1 or more. Received: " in capsys.readouterr().err


def test_a_folder_of_other_images_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="error: SOURCE must be tfds:cifar10"):
        degradation.main([str(tmp_path)])
    with pytest.raises(SystemExit, match=r"error: .*Missing or empty: .*train/airplane"):
        transfer.main([str(tmp_path)])


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="error: the folder cannot be made"):
        kill_and_resume.main([str(tmp_path / "file/kills")])
