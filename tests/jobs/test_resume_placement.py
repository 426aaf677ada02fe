"""What may change between the command that began a job and the one that goes on with it."""

import pytest
from small_config import SMALL, config_of

from mtrec.errors import UserError
from mtrec.jobs import resume
from mtrec.tracking import run_dir

SHARDED = "model.table_placement=sharded"


@pytest.fixture
def begun(tmp_path):
    """The directory of a job that has left a checkpoint."""
    run_dir.save_config(config_of(*SMALL), tmp_path)
    (tmp_path / run_dir.CHECKPOINTS / "step-00000001").mkdir(parents=True)
    return tmp_path


def test_a_job_goes_on_with_another_placement_of_its_tables(begun):
    found = resume.find_job(config_of(*SMALL, SHARDED), begun, [*SMALL, SHARDED])
    assert found.config.model.table_placement == "sharded"
    with pytest.raises(UserError, match=r"model.query.dim was 64 and is 32"):
        resume.find_job(config_of(*SMALL, "model.query.dim=32"), begun, [])


def test_a_run_directory_goes_on_with_the_placement_of_the_command(begun):
    command = (f"train.resume={begun}", SHARDED)
    directory = resume.directory_of(config_of(*command), begun / "elsewhere")
    found = resume.find_job(config_of(*command), directory, command)
    assert found.directory == begun
    assert found.config.model.table_placement == "sharded"
    assert found.config.data == config_of(*SMALL).data
