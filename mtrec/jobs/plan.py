"""What a job would take with more data, or on other machines, than there are here.

The job takes some steps here, on the data of its config: the whole log, or a sample of its users.
What it held then of each row, user and item, tables above all, is counted for as many as there will
be; the rest, such as libraries and what a step computes, stays. Steps with a part of the batch tell
what of a step grows with the batch: a replica has 1/R of that, but for the update of replicated
tables, which each makes of everybody's gradients.
"""

from dataclasses import dataclass

from mtrec.distributed import devices
from mtrec.jobs.doctor_config import DoctorConfig
from mtrec.libraries import import_tensorflow


@dataclass(frozen=True)
class Plan:
    """What a job would take.

    Attributes:
        replicas: Replicas that train.
        rows, users, items: Of the log.
        tables: Bytes of tables on each device.
        slots: Bytes of their optimizer's slots there.
        worker: Bytes of anonymous memory of each worker, at the peak of training; with what is on
            its devices where these are CPUs.
        sent: Bytes that a replica sends in a step.
        computing: Seconds of a step but for sending.
        sending: Seconds of a step to send that.
        steps: Steps of an epoch.
    """

    replicas: int
    rows: int
    users: int
    items: int
    tables: int
    slots: int
    worker: int
    sent: float
    computing: float
    sending: float
    steps: int

    @property
    def epoch(self) -> float:
        """Seconds of an epoch, without validation and checkpoints."""
        return self.steps * (self.computing + self.sending)

    def __str__(self) -> str:
        computing, sending = 1000 * self.computing, 1000 * self.sending
        return (
            f"{self.rows:,} rows, {self.users:,} users, {self.items:,} items, replicas: "
            f"{self.replicas}\n"
            f"each device: {_size(self.tables)} of tables, {_size(self.slots)} of slots\n"
            f"each worker: {_size(self.worker)} of memory at the peak of training\n"
            f"each replica sends in a step: {_size(self.sent)}\n"
            f"a step: {computing + sending:,.1f} ms, {sending:,.1f} of them to send; computed as "
            "fast as here\n"
            f"an epoch: {self.steps:,} steps, {self.epoch / 3600:,.2f} hours, and validation"
        )


def plan(config: DoctorConfig) -> Plan:
    """What the job of a config would take, with `rows` and `items`, over a net of `network_gbit`.

    Raises:
        UserError: If the data cannot be had, or the config does not fit it.
    """
    with devices.visible(1 if config.cluster.use_gpu else 0):
        import_tensorflow()
        from mtrec.jobs.sample import Sample

        sample = Sample.taken(config)
        return sample.plan(rows=config.rows, items=config.items, network_gbit=config.network_gbit)


def _size(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"
