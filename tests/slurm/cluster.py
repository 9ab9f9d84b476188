"""A real Slurm of one node in a folder, without systemd or accounting: for tests, as root.

Nothing outside the folder is touched, so it runs beside another Slurm.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=600
EnforcePartLimits=ALL
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=64000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    lacking = [p for p in PROGRAMS if shutil.which(p) is None and not _in_sbin(p)]
    if lacking:
        return f"{', '.join(lacking)} not installed (apt install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "a test cluster needs root"


def _in_sbin(program: str) -> bool:
    return Path("/usr/sbin", program).exists()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Cluster:
    """The running cluster; ``environment`` makes Slurm's programs speak to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("munge", "state", "spool", "log"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "munge").chmod(0o711)
        self.host = socket.gethostname().partition(".")[0]
        self.configuration = folder / "slurm.conf"
        self.configuration.write_text(
            CONFIGURATION.format(
                host=self.host, folder=folder, controller=_free_port(), daemon=_free_port()
            )
        )
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(self.configuration),
            "PATH": os.environ["PATH"] + ":/usr/sbin",
        }

    def start(self) -> None:
        """Start munge and both daemons, and wait until the node is idle."""
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        place = self.folder / "munge"
        self.call(
            "munged", "--force", "-S", f"{place}/munge.sock", f"--key-file={key}",
            f"--pid-file={place}/pid", f"--log-file={place}/log", f"--seed-file={place}/seed",
        )  # fmt: skip
        self.start_controller("-c", "-i")
        self.call("slurmd", "-f", str(self.configuration))
        self.wait_for("idle")

    def start_controller(self, *options: str) -> None:
        """Start slurmctld."""
        self.call("slurmctld", *options, "-f", str(self.configuration))

    def wait_for(self, state: str, seconds: float = 20.0) -> None:
        """Until sinfo says so of the node."""
        deadline = time.time() + seconds
        while self.call("sinfo", "-h", "-o", "%T", check=False).strip() != state:
            if time.time() > deadline:
                log = (self.folder / "log" / "slurmctld.log").read_text()[-2000:]
                raise TimeoutError(f"the node is not {state}\n{log}")
            time.sleep(0.1)

    def call(self, *command: str, check: bool = True) -> str:
        """A program's standard output."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr}")
        return done.stdout

    def stop_controller(self) -> None:
        """Kill slurmctld."""
        self._kill(self.folder / "slurmctld.pid")

    def stop(self) -> None:
        """Cancel all jobs and stop the daemons."""
        self.call("scancel", "--user=root", "--signal=KILL", "--full", check=False)
        self.call("scancel", "--user=root", check=False)
        for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            self._kill(self.folder / name)

    def _kill(self, path: Path) -> None:
        if not path.is_file():
            return
        pid = int(path.read_text())
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return
            deadline = time.time() + 5
            while time.time() < deadline and Path(f"/proc/{pid}").exists():
                if "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]:
                    return
                time.sleep(0.05)
