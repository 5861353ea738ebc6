"""What the operating system says of a server's processes, and of this machine."""

import datetime
import os
import pathlib
import platform
import subprocess

TICKS = os.sysconf("SC_CLK_TCK")
MARK = "MIZZEN_BENCH_PEER"


def processes(mark):
    """All processes of a server, found by a mark in their environment, so that daemons are not missed."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                pass  # it ended meanwhile, or is not ours
    return found


def cpu_seconds(pids):
    """Processor time so far by process, user and system."""
    used = {}
    for pid in pids:
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()
        except OSError:
            continue
        used[pid] = (int(fields[11]) + int(fields[12])) / TICKS
    return used


def cpu_between(before, after):
    """Processor seconds between two readings; a process new since then counts from its start."""
    return sum(used - before.get(pid, 0.0) for pid, used in after.items())


def rss_mib(pids):
    """Resident memory of all processes; pages they share count in each."""
    total = 0
    for pid in pids:
        try:
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        total += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)
    return total / 1024


def machine(root, command):
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), "unknown")
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if "MemTotal" in line)
    git = lambda *a: subprocess.run(["git", *a], cwd=root, capture_output=True, text=True).stdout.strip()
    return {
        "cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory / 2**20, 1), "kernel": platform.release(),
        "load_before": os.getloadavg()[0], "commit": git("rev-parse", "--short", "HEAD"),
        "clean": git("status", "--porcelain", "--untracked-files=no") == "",
        "command": command, "date": datetime.date.today().isoformat(),
    }
