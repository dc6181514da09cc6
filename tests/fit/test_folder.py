"""The folder of a training: what may be replaced, what is kept, and who may write."""

from __future__ import annotations

from pathlib import Path

import pytest

from keras_resnet18 import load_run
from keras_resnet18.errors import InputError
from keras_resnet18.fit.folder import (
    check_out,
    new_training,
    old_training,
    unfinished,
)
from keras_resnet18.run import CARD_MARK, Run


@pytest.fixture
def finished(tmp_path) -> Run:
    """A folder that looks like a finished run: a file in each place."""
    run = Run(tmp_path / "runs" / "mine")
    write(run, "old")
    for path in (
        run.tensorboard_folder / "train" / "events.out.tfevents.1.old",
        run.export_folder / "model.tflite",
        run.export_folder / "model.tflite.json",
        run.export_folder / "saved_model" / "saved_model.pb",
        run.export_folder / "labels.txt",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
    return run


class Stopped(BaseException):
    """Such as an interruption, or a process that was killed."""


def write(run, text):
    run.path.mkdir(parents=True, exist_ok=True)
    for file in run.files:
        file.write_text(text)


def begin(run, text="new"):
    """What a training writes before it ends: all but metrics and plots, and a checkpoint."""
    write(run, text)
    for last in (run.metrics_file, run.curves_file, run.confusion_file, run.report_file):
        last.unlink()
    run.checkpoints_folder.mkdir()
    (run.checkpoints_folder / "epoch00001-step00000002.npz").write_text(text)
    events = run.tensorboard_folder / "train" / "events.out.tfevents.2.new"
    events.parent.mkdir(parents=True)
    events.write_text(text)


def texts(run):
    return {file.read_text() for file in run.files if file.exists()}


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_stays_whole_until_its_replacement_is_finished(finished):
    before = names(finished.path)
    with pytest.raises(InputError, match=r"holds a run: .*overwrite=True"):
        check_out(finished.path, overwrite=False)
    with new_training(finished.path, overwrite=True) as run:
        begin(run)
        assert load_run(finished.path).path == finished.path
        assert texts(finished) == {"old"}
        assert before <= names(finished.path)
        write(run, "new")
    assert texts(finished) == {"new"}
    assert names(finished.path) == {
        *(file.name for file in finished.files),
        "tensorboard/train/events.out.tfevents.2.new",
    }
    assert list(finished.path.parent.iterdir()) == [finished.path]


def test_a_replacement_that_stops_leaves_the_old_run_and_can_go_on(finished):
    with pytest.raises(Stopped), new_training(finished.path, overwrite=True):
        raise Stopped  # it had written nothing
    assert unfinished(finished) is None
    with pytest.raises(Stopped), new_training(finished.path, overwrite=True) as run:
        begin(run, "half")
        raise Stopped
    assert load_run(finished.path).metrics_file.read_text() == "old"
    with pytest.raises(InputError, match=r"unfinished training: go on with .*resume="):
        check_out(finished.path, overwrite=False)
    with old_training(finished) as again:
        assert again.path == unfinished(finished).path
        again.metrics_file.write_text("half")
    assert texts(finished) == {"half"}


def test_a_replacement_killed_as_it_takes_its_place_is_put_there_by_resume(finished, monkeypatch):
    replace, moves = Path.replace, []

    def die(self, target):
        moves.append(target)
        if len(moves) == 4:
            raise Stopped
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(Stopped), new_training(finished.path, overwrite=True) as run:
        begin(run)
        run.metrics_file.write_text("new")
    monkeypatch.undo()
    assert len(texts(finished)) == 2  # half old, half new: no command may take it for a run
    with pytest.raises(InputError, match=r"is being replaced .*resume="):
        load_run(finished.path)
    with old_training(finished) as training:
        assert training.metrics_file.is_file()  # so that nothing is trained again
    assert texts(finished) == {"new"}
    assert not finished.replacement.path.exists()
    assert unfinished(finished) is None


def test_checkpoints_of_a_process_killed_as_it_cleared_up_go_with_resume(tmp_path):
    run = Run(tmp_path / "run")
    begin(run)
    (run.checkpoints_folder / "epoch00001-step00000003.npz.damaged").touch()
    (run.checkpoints_folder / ".writing-x").mkdir()  # of a checkpoint that a kill cut short
    run.metrics_file.write_text("new")
    assert load_run(run.path).finished
    with old_training(run) as training:
        assert training.metrics_file.is_file()
    assert unfinished(run) is None
    assert not run.checkpoints_folder.exists()


def test_files_of_the_user_survive_every_replacement(finished):
    mine = [
        finished.path / "notes.txt",
        finished.export_folder / "mine.txt",
        finished.tensorboard_folder / "mine.txt",
    ]
    for path in mine:
        path.write_text("mine")
    with new_training(finished.path, overwrite=True) as run:
        begin(run)
        run.metrics_file.write_text("new")
    finished.metrics_file.unlink()  # an unfinished one is replaced at once
    with new_training(finished.path, overwrite=True) as run:
        assert run.path == finished.path
        assert not any(file.exists() for file in finished.files)
    assert [path.read_text() for path in mine] == ["mine"] * 3


def test_a_training_that_wrote_nothing_leaves_nothing_and_an_unfinished_one_says_so(tmp_path):
    path = tmp_path / "my run"
    with pytest.raises(Stopped), new_training(path):
        raise Stopped
    assert list(tmp_path.iterdir()) == []
    begin(Run(path))
    with pytest.raises(InputError, match=r"go on with .*resume=.* or begin again"):
        check_out(path, overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_something_that_is_not_a_run_is_never_touched(tmp_path, overwrite):
    file = tmp_path / "thesis" / "chapter1.txt"
    file.parent.mkdir()
    file.write_text("mine")
    (tmp_path / "cooking").mkdir()
    (tmp_path / "cooking" / "recipe.toml").write_text("butter = 250")
    for path in (file.parent, file, tmp_path / "cooking"):
        with pytest.raises(InputError, match="not a run, so it is not touched"):
            check_out(path, overwrite=overwrite)
    with pytest.raises(InputError, match="below the file"):
        check_out(file / "run", overwrite=overwrite)
    assert file.read_text() == "mine"


def test_an_empty_folder_a_link_and_a_new_folder_are_free(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for path in (tmp_path / "empty", tmp_path / "link", tmp_path / "a" / "b"):
        check_out(path, overwrite=False)
    with new_training(tmp_path / "link") as run:
        write(run, "new")
    assert (tmp_path / "link").is_symlink()
    assert texts(Run(tmp_path / "empty")) == {"new"}


@pytest.mark.parametrize("text", [f"---\n{CARD_MARK}\nold", "my own"])
def test_the_card_of_the_run_that_is_replaced_goes_and_a_persons_own_stays(finished, text):
    finished.card_file.write_text(text)
    with new_training(finished.path, overwrite=True) as run:
        write(run, "new")
    assert finished.card_file.exists() == (text == "my own")


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_second_training_is_refused_while_the_first_lives(tmp_path, overwrite):
    with new_training(tmp_path / "run") as run:
        begin(run)
        with (
            pytest.raises(InputError, match="another process trains in"),
            new_training(run.path, overwrite=overwrite),
        ):
            pass
        write(run, "new")
