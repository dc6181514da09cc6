"""What is written appears whole or not at all, and dead writers leave nothing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keras_resnet18 import files as staging
from keras_resnet18.errors import InputError
from keras_resnet18.files import staged


def test_a_new_file_and_folder_have_the_modes_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        with staged(tmp_path / "file") as new:
            new.write_text("text")
        with staged(tmp_path / "folder") as new:
            new.mkdir()
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750


KILLED = """
import pathlib, sys, time
from keras_resnet18.files import staged
with staged(pathlib.Path(sys.argv[1])) as new:
    new.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_goes_and_a_living_ones_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "_OLD", 0)

    def start():
        command = [sys.executable, "-c", KILLED, str(tmp_path / "file")]
        path = str(Path(staging.__file__).parents[1])
        writer = subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
        )
        assert writer.stdout.readline() == b"writing\n"
        return writer

    killed = start()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    living = start()
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 2
    with staged(tmp_path / "file") as new:
        new.write_text("whole")
    now = {path.name for path in tmp_path.iterdir()}
    assert "file" in now and len(now & left) == 1
    living.kill()
    living.wait()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_a_disk_without_room_is_one_line_and_the_old_file_stays(tmp_path, code):
    (tmp_path / "file").write_text("old")
    with (
        pytest.raises(InputError, match=r"file cannot be written: .* Free the disk"),
        staged(tmp_path / "file") as new,
    ):
        new.write_text("half")
        raise OSError(code, os.strerror(code))
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_replaced_whole(tmp_path):
    folder = tmp_path / "saved"
    for name in ("old", "new"):
        with staged(folder) as writing:
            writing.mkdir()
            (writing / name).touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]
