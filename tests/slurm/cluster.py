"""A real Slurm in a folder, without systemd or accounting: for tests, as root.

It has two nodes, a slurmd each on this one machine.

Nothing outside the folder is touched, so it runs beside another Slurm.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

NODES = ("one", "two")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
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
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=64000
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=64000
PartitionName=main Nodes=one,two Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no cluster can be started here, or None."""
    lacking = [p for p in PROGRAMS if shutil.which(p) is None and not _in_sbin(p)]
    if lacking:
        return f"{', '.join(lacking)} not installed (apt install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "a test cluster needs root"


def _in_sbin(program: str) -> bool:
    return Path("/usr/sbin", program).exists()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:  # All open at once, or one might come twice.
        found = []
        for _ in range(count):
            s = stack.enter_context(socket.socket())
            s.bind(("127.0.0.1", 0))
            found.append(s.getsockname()[1])
        return found


class Cluster:
    """The running cluster; ``environment`` makes Slurm's programs speak to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("munge", "state", "log", *(f"spool-{node}" for node in NODES)):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "munge").chmod(0o711)
        host = socket.gethostname().partition(".")[0]
        controller, first, second = _free_ports(3)
        self.configuration = folder / "slurm.conf"
        self.configuration.write_text(
            CONFIGURATION.format(
                host=host, folder=folder, controller=controller, first=first, second=second
            )
        )
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(self.configuration),
            "PATH": os.environ["PATH"] + ":/usr/sbin",
        }

    def start(self) -> None:
        """Start munge and the daemons, and wait until the nodes are idle."""
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        place = self.folder / "munge"
        self.call(
            "munged", "--force", "-S", f"{place}/munge.sock", f"--key-file={key}",
            f"--pid-file={place}/pid", f"--log-file={place}/log", f"--seed-file={place}/seed",
        )  # fmt: skip
        self.start_controller("-c", "-i")
        for node in NODES:
            self.call("slurmd", "-N", node, "-f", str(self.configuration))
        self.wait_for("idle")

    def start_controller(self, *options: str) -> None:
        """Start slurmctld."""
        self.call("slurmctld", *options, "-f", str(self.configuration))

    def wait_for(self, state: str, seconds: float = 20.0) -> None:
        """Until sinfo says so of all nodes."""
        deadline = time.time() + seconds
        while set(self.call("sinfo", "-h", "-N", "-o", "%T", check=False).split()) != {state}:
            if time.time() > deadline:
                log = (self.folder / "log" / "slurmctld.log").read_text()[-2000:]
                raise TimeoutError(f"the nodes are not {state}\n{log}")
            time.sleep(0.1)

    def set_nodes(self, state: str) -> None:
        """down, drain or resume; a node that came back by itself may refuse to resume."""
        for node in NODES:
            change = ("scontrol", "update", f"NodeName={node}", f"State={state}", "Reason=test")
            self.call(*change, check=state != "resume")

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
        daemons = [f"slurmd-{node}.pid" for node in NODES]
        for name in (*daemons, "slurmctld.pid", "munge/pid"):
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
