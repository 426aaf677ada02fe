"""A job writes into a directory of its own, and leaves alone what is not its own."""

import errno

import pytest
from small_config import SMALL, config_of

from mtrec.errors import UserError
from mtrec.jobs import resume
from mtrec.tracking import run_dir
from mtrec.training.checkpoint import Checkpoints


def found(directory, *overrides):
    config = config_of(*SMALL, *overrides)
    directory = resume.directory_of(config, directory)
    return resume.find_job(config, directory, [*SMALL, *overrides])


def files(directory):
    return sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())


@pytest.fixture
def begun(tmp_path):
    """A run directory with a file of each kind that a job writes."""
    run_dir.save_config(config_of(*SMALL), tmp_path)
    for name in (
        "checkpoints/step-00000010/state.json",
        "checkpoints/step-00000010/weights.index",
        "checkpoints/.step-00000020.new/weights.index",
        "checkpoints/selected",
        "data/about.json",
        "data/users.0.npy",
        "data/fit.npy",
        "index/manifest.json",
        "index/scann/scann_config.pb",
        "measured/test.npz",
        "model/saved_model.pb",
        "model/variables/variables.index",
        "model/assets/users.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("resumed", ["auto", "never"])
@pytest.mark.parametrize(
    "name", ["config.yaml", "model/weights.pt", "index/notes.txt", "checkpoints/step-1/mine"]
)
def test_a_directory_that_is_not_empty_and_not_a_jobs_is_refused(name, resumed, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("data: mine\n")
    with pytest.raises(UserError, match=r"hydra.run.dir must be a job's, or empty"):
        found(tmp_path, f"train.resume={resumed}")
    assert files(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "data: mine\n"


def test_a_config_of_somebody_else_makes_no_run_directory(tmp_path):
    (tmp_path / "config.yaml").write_text("{not: [yaml")
    assert not run_dir.is_run(tmp_path)
    with pytest.raises(UserError, match=r"train.resume must be auto, never or a run directory"):
        found(tmp_path / "elsewhere", f"train.resume={tmp_path}")


def test_a_job_begins_in_an_empty_directory_and_where_it_died_writing_its_config(tmp_path):
    assert not found(tmp_path / "missing").finished
    (tmp_path / ".config.yaml.partial").write_text("data:")
    (tmp_path / ".lock").touch()
    assert not found(tmp_path).finished
    run_dir.save_config(config_of(*SMALL), tmp_path)
    assert files(tmp_path) == [".lock", "config.yaml"]


def test_a_run_directory_is_of_one_job_at_a_time(begun, tmp_path):
    for directory in (begun, tmp_path / "new"):
        with run_dir.held(directory):
            # Who is refused takes nothing from the one at work.
            for _ in range(2):
                with (
                    pytest.raises(UserError, match=f"another is at work in {directory}"),
                    run_dir.held(directory),
                ):
                    pass
        with run_dir.held(directory):
            pass


def test_a_directory_of_somebody_else_gets_no_lock(tmp_path):
    (tmp_path / "mine").touch()
    with run_dir.held(tmp_path):
        assert files(tmp_path) == ["mine"]


def test_storage_without_locks_is_said_to_have_none(tmp_path, monkeypatch, capsys):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_dir.fcntl, "flock", refuse)
    with run_dir.held(tmp_path):
        assert "cannot be locked (No locks available)" in capsys.readouterr().err


@pytest.mark.parametrize("resumed", ["auto", "never"])
@pytest.mark.parametrize("name", ["checkpoints", "data", "index", "measured", "model"])
def test_files_of_somebody_else_in_a_run_directory_are_refused_and_stay(name, resumed, begun):
    (begun / name / "notes.txt").write_text("mine")
    before = files(begun)
    with pytest.raises(UserError, match=rf"{name} must hold nothing but.* holds notes.txt"):
        found(begun, f"train.resume={resumed}")
    assert files(begun) == before


def test_never_deletes_what_a_job_wrote_and_nothing_else(begun):
    (begun / "notes.txt").write_text("mine")
    (begun / ".finished").touch()
    before = files(begun)
    assert found(begun).finished
    job = found(begun, "train.resume=never")
    assert job.anew
    assert not job.finished
    # Not before the new job has its data.
    assert files(begun) == before
    resume.discard(begun)
    assert files(begun) == ["notes.txt"]


def test_a_directory_whose_deletion_was_cut_short_is_still_a_jobs(begun, monkeypatch):
    def killed(path, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(resume.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        resume.discard(begun)
    assert run_dir.is_run(begun)


def test_a_checkpoint_that_holds_somebody_elses_file_is_not_pruned(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    for step in (1, 2, 3):
        checkpoints.save(step, {})
    (tmp_path / "step-00000001" / "notes.txt").write_text("mine")
    (tmp_path / "step-backup").mkdir()
    checkpoints.prune(keep=3, latest=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-00000001",
        "step-00000003",
        "step-backup",
    ]
    assert (tmp_path / "step-00000001" / "notes.txt").read_text() == "mine"
    latest = checkpoints.latest()
    assert latest is not None
    assert latest[0] == 3
