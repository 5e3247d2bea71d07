"""How much memory and how many processors a guest may have here, whatever container we run in.

Limits are those of the kernel's cgroups, version 2 (cgroup-v2.rst) or 1, along the whole path up to the root.
"""

import os
from collections.abc import Iterator

_ROOT = "/sys/fs/cgroup"
_UNLIMITED = 1 << 60


def free_memory(proc: str = "/proc", cgroups: str = _ROOT) -> int:
    """Return the bytes that can be used without swapping: MemAvailable, or what the tightest cgroup leaves."""
    free = _UNLIMITED
    for line in _read(f"{proc}/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    for folder in _own_cgroups(proc, cgroups, "memory"):
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit = _number(f"{folder}/{limit_name}")
            if limit is not None:
                # What the page cache holds counts as used, and is given back when it is needed.
                cached = _statistic(f"{folder}/memory.stat", ("inactive_file", "total_inactive_file"))
                free = min(free, limit - (_number(f"{folder}/{used_name}") or 0) + cached)
    return 4 << 30 if free == _UNLIMITED else max(free, 0)


def usable_cpus(proc: str = "/proc", cgroups: str = _ROOT) -> int:
    """Return how many processors we may run on: the affinity mask, or fewer by cgroup quota; at least 1."""
    cpus = float(len(os.sched_getaffinity(0)))
    for folder in _own_cgroups(proc, cgroups, "cpu"):
        quota, _, period = _read(f"{folder}/cpu.max").strip().partition(" ")
        if not quota:
            quota, period = _read(f"{folder}/cpu.cfs_quota_us").strip(), _read(f"{folder}/cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period):
            cpus = min(cpus, int(quota) / int(period))
    return max(int(cpus), 1)


def _own_cgroups(proc: str, cgroups: str, controller: str) -> Iterator[str]:
    for line in _read(f"{proc}/self/cgroup").splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0":
            base = cgroups
        elif controller in controllers.split(","):
            base = (
                f"{cgroups}/{controllers}" if os.path.isdir(f"{cgroups}/{controllers}") else f"{cgroups}/{controller}"
            )
        else:
            continue
        while path.strip("/"):
            yield base + path.rstrip("/")
            path = path.rstrip("/").rpartition("/")[0]
        yield base


def _statistic(path: str, names: tuple[str, ...]) -> int:
    found = [line.split() for line in _read(path).splitlines()]
    return max((int(words[1]) for words in found if len(words) == 2 and words[0] in names), default=0)


def _number(path: str) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() and int(text) < _UNLIMITED else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
