from __future__ import annotations

import pytest

from mlx_loopai.errors import InputError
from mlx_loopai.memory.machine import _metal_machine, limited_ram, machine_names, named_machine, this_machine
from mlx_loopai.units import GIB


@pytest.mark.parametrize(
    ("name", "macos", "gib"),
    [
        ("m1-8gb", 15, 5.33),
        ("m4-16gb", 15, 10.67),
        ("m4-16gb", 26, 11.84),
        ("m3-pro-36gb", 15, 27.0),
        ("m4-pro-48gb", 26, 37.44),
        ("m4-max-64gb", 26, 51.84),
        ("m4-max-128gb", 26, 107.52),
    ],
)
def test_working_sets_are_those_of_logs(name: str, macos: int, gib: float) -> None:
    machine = named_machine(name, macos)
    assert machine.working_set_bytes / GIB == pytest.approx(gib, abs=0.01)
    assert machine.backend == "metal"
    assert machine.max_buffer_bytes < machine.working_set_bytes < machine.ram_bytes


def test_what_nobody_measured_is_called_derived() -> None:
    assert named_machine("m4-16gb").evidence == "seen"
    assert named_machine("m3-pro-18gb").evidence == "derived"
    assert named_machine("m1-8gb", 26).evidence == "derived"


@pytest.mark.parametrize("macos", [15, 26])
def test_every_name_is_a_machine(macos: int) -> None:
    machines = [named_machine(name, macos) for name in machine_names()]
    assert len(machines) > 30
    assert all(0 < machine.reserve_bytes < machine.ram_bytes / 2 for machine in machines)


def test_spelling_does_not_matter() -> None:
    assert named_machine("M4 Max 64GB") == named_machine("m4-max-64gb")


@pytest.mark.parametrize(
    ("name", "near"), [("m4-20gb", "m4-16gb, m4-24gb"), ("m5-16gb", "m4-16gb"), ("toaster", "m1-..gb")]
)
def test_unknown_machine_names_near_ones(name: str, near: str) -> None:
    with pytest.raises(InputError, match=near):
        named_machine(name)


def test_unknown_macos() -> None:
    with pytest.raises(InputError, match="`macos` 12"):
        named_machine("m4-16gb", 12)


def test_this_machine_has_memory() -> None:
    machine = this_machine()
    assert machine.evidence == "reported"
    assert machine.ram_bytes >= machine.working_set_bytes > GIB / 4
    assert machine.cores >= 1


def test_a_mac_is_read_not_computed() -> None:
    info = {
        "memory_size": 16 * GIB,
        "max_recommended_working_set_size": 12 * GIB,
        "max_buffer_length": 9 * GIB,
        "device_name": "Apple M4",
    }
    machine = _metal_machine(info, 0)
    assert (machine.name, machine.ram_bytes, machine.working_set_bytes) == ("Apple M4", 16 * GIB, 12 * GIB)
    assert machine.max_buffer_bytes == 9 * GIB
    assert machine.evidence == "reported"


def test_a_mac_that_does_not_tell_gets_the_older_share() -> None:
    machine = _metal_machine({}, 16 * GIB)
    assert machine.working_set_bytes == int(2 / 3 * 16 * GIB)
    assert machine.evidence == "derived"


FILES = {
    "/proc/meminfo": "MemTotal:       16777216 kB\nMemFree: 1 kB\n",
    "/proc/self/cgroup": "0::/jobs/one\n",
    "/sys/fs/cgroup/memory.max": "max\n",
    "/sys/fs/cgroup/jobs/memory.max": f"{6 * GIB}\n",
    "/sys/fs/cgroup/jobs/one/memory.max": "max\n",
}


def test_a_container_limit_counts() -> None:
    assert limited_ram(32 * GIB, lambda path: FILES.get(path, "")) == 6 * GIB


def test_without_limits_physical_memory_counts() -> None:
    assert limited_ram(32 * GIB, lambda path: "") == 32 * GIB


def test_version_1_limits() -> None:
    files = {
        "/proc/self/cgroup": "7:cpu,memory:/box\n",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096),
        "/sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(3 * GIB),
    }
    assert limited_ram(32 * GIB, lambda path: files.get(path, "")) == 3 * GIB
