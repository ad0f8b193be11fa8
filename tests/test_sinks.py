"""Files and folders appear whole or not at all: nothing half written, nothing left over, what was there stays."""

import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from khabar.inference.sinks import FileSink, whole_file, whole_folder


@pytest.fixture
def moves_like_windows(monkeypatch):
    """Windows moves no folder to where one is, be it empty."""
    move = os.replace

    def refuse_folders(source, target):
        if Path(target).is_dir():
            raise PermissionError(13, "Access is denied", str(target))
        move(source, target)

    monkeypatch.setattr(os, "replace", refuse_folders)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_there_when_it_is_whole(tmp_path):
    with whole_file(tmp_path / "a.txt") as place:
        place.write_text("new", encoding="utf-8")
        assert not (tmp_path / "a.txt").exists()
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new"


def break_off_a_file(path):
    with whole_file(path) as place:
        place.write_text("new", encoding="utf-8")
        raise ValueError("none today")


def break_off_before_a_file(path):
    with whole_file(path):
        raise ValueError("none today")


def break_off_lines(path):
    with FileSink(path) as sink:
        sink.write("new")
        raise ValueError("none today")


@pytest.mark.parametrize("break_off", [break_off_a_file, break_off_before_a_file, break_off_lines])
def test_an_error_leaves_the_earlier_file(tmp_path, break_off):
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")
    with pytest.raises(ValueError, match="none today"):
        break_off(tmp_path / "a.txt")
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"


def test_a_sink_is_written_to_while_it_is_open_only(tmp_path):
    sink = FileSink(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="inside `with` only"):
        sink.write("early")
    with sink:
        sink.write("خبر")
    with pytest.raises(ValueError, match="inside `with` only"):
        sink.write("late")
    assert (tmp_path / "a.txt").read_bytes() == "خبر\n".encode()


def test_a_link_stays_a_link(tmp_path):
    for name, target in (("file", "target.txt"), ("folder", "target")):
        (tmp_path / name).symlink_to(tmp_path / target)
    (tmp_path / "target").mkdir()
    with whole_file(tmp_path / "file") as place:
        place.write_text("new", encoding="utf-8")
    with whole_folder(tmp_path / "folder") as place:
        (place / "inside").touch()
    assert (tmp_path / "file").is_symlink()
    assert (tmp_path / "folder").is_symlink()
    assert (tmp_path / "target.txt").read_text(encoding="utf-8") == "new"
    assert names(tmp_path / "target") == ["inside"]


def test_of_several_files_all_appear_or_none(tmp_path):
    def write_both(second):
        with ExitStack() as files:
            for name, text in (("a.txt", "one"), ("b.txt", second)):
                files.enter_context(whole_file(tmp_path / name)).write_text(text, encoding="utf-8")

    with pytest.raises(TypeError):
        write_both(None)
    assert names(tmp_path) == []
    write_both("two")
    assert names(tmp_path) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_is_there_when_it_is_whole(tmp_path, moves_like_windows, there):
    target = tmp_path / "above" / "folder"
    if there:
        target.mkdir(parents=True)
    with whole_folder(target) as place:
        (place / "inside").touch()
        assert not (target / "inside").exists()
    assert names(target) == ["inside"]
    assert names(target.parent) == ["folder"]
    (tmp_path / "plain").mkdir()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


def break_off_a_folder(path):
    with whole_folder(path) as place:
        (place / "inside").touch()
        raise ValueError("none today")


@pytest.mark.parametrize("there", [True, False])
def test_an_error_leaves_no_folder(tmp_path, there):
    target = tmp_path / "folder"
    if there:
        target.mkdir()
    with pytest.raises(ValueError, match="none today"):
        break_off_a_folder(target)
    assert names(tmp_path) == (["folder"] if there else [])
    assert not there or names(target) == []


def fill_meanwhile(path):
    with whole_folder(path) as place:
        (place / "inside").touch()
        path.mkdir()
        (path / "others").touch()


def test_a_folder_that_was_filled_meanwhile_is_left_alone(tmp_path):
    target = tmp_path / "folder"
    with pytest.raises(OSError, match="not empty"):
        fill_meanwhile(target)
    assert names(tmp_path) == ["folder"]
    assert names(target) == ["others"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with FileSink(pipe) as sink:
        sink.write("خبر")
    reader.join(timeout=60)
    assert read == ["خبر\n".encode()]
    assert pipe.is_fifo()
    assert names(tmp_path) == ["pipe"]
