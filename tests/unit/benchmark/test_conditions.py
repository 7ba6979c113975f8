from __future__ import annotations

from collections.abc import Sequence

import pytest

from mlx_loopai.benchmark.conditions import State, SystemReader, disturbances, read_machine, read_state

LINUX = {
    "/proc/loadavg": "1.50 1.00 0.50 1/200 4242\n",
    "/proc/meminfo": "MemTotal: 4096 kB\nMemAvailable: 2048 kB\nSwapTotal: 1000 kB\nSwapFree: 400 kB\n",
    "/proc/vmstat": "pswpin 1\npswpout 3\n",
    "/proc/pressure/memory": "some avg10=12.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00\n",
    "/proc/cpuinfo": "processor : 0\nmodel name\t: Some CPU 9000\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
}
MACOS = {
    "sysctl -n vm.loadavg": "{ 2.25 2.00 1.75 }\n",
    "sysctl -n vm.swapusage": "total = 2048.00M  used = 512.50M  free = 1535.50M  (encrypted)\n",
    "sysctl -n kern.memorystatus_vm_pressure_level": "2\n",
    "sysctl -n machdep.cpu.brand_string": "Apple M4 Pro\n",
    "sysctl -n hw.memsize": "25769803776\n",
    "vm_stat": "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free: 10.\nPages inactive: 20.\n"
    "Pages speculative: 5.\nSwapins: 1.\nSwapouts: 7.\n",
    "pmset -g therm": "CPU_Scheduler_Limit = 100\nCPU_Speed_Limit = 80\n",
    "pmset -g": " lowpowermode         1\n sleep 1\n",
}


class FakeReader:
    def __init__(self, system: str, answers: dict[str, str]) -> None:
        self.system, self._answers = system, answers

    def text(self, path: str) -> str:
        return self._answers.get(path, "")

    def output(self, command: Sequence[str]) -> str:
        return self._answers.get(" ".join(command), "")


def test_linux_tells_from_its_files() -> None:
    state = read_state(FakeReader("Linux", LINUX))
    assert state.load == 1.5
    assert state.available_bytes == 2048 * 1024
    assert state.swap_used_bytes == 600 * 1024
    assert state.swapped_bytes is not None
    assert state.swapped_bytes % 3 == 0
    assert (state.pressure, state.thermal, state.power) == ("warning", None, "performance")
    machine = read_machine(FakeReader("Linux", LINUX))
    assert (machine.chip, machine.ram_bytes) == ("Some CPU 9000", 4096 * 1024)


def test_macos_tells_through_its_commands() -> None:
    state = read_state(FakeReader("Darwin", MACOS))
    assert state == State(
        load=2.25,
        available_bytes=35 * 16384,
        swap_used_bytes=int(512.5 * 2**20),
        swapped_bytes=7 * 16384,
        pressure="warning",
        thermal="CPU limited to 80 %",
        power="low power mode",
    )
    machine = read_machine(FakeReader("Darwin", MACOS))
    assert (machine.chip, machine.ram_bytes) == ("Apple M4 Pro", 24 << 30)
    assert "mlx" in machine.versions


@pytest.mark.parametrize("system", ["Linux", "Darwin"])
def test_what_a_system_does_not_tell_is_unknown(system: str) -> None:
    assert read_state(FakeReader(system, {})) == State()
    assert read_machine(FakeReader(system, {})).chip


def test_this_machine_can_be_read() -> None:
    reader = SystemReader()
    assert reader.text("/no/such/file") == ""
    assert reader.output(["no-such-command"]) == ""
    assert read_machine(reader).cores >= 1


def test_what_disturbed_a_race_is_named() -> None:
    quiet = State(load=0.2, swapped_bytes=0, pressure="normal", thermal="nominal", power="normal")
    assert disturbances(quiet, quiet, cores=2) == []
    assert disturbances(State(), State(), cores=2) == []
    bad = State(
        load=3.0, swapped_bytes=5 << 20, pressure="critical", thermal="CPU limited to 80 %", power="low power mode"
    )
    found = disturbances(State(load=3.0, swapped_bytes=0), bad, cores=2)
    assert len(found) == 5
    assert found[:2] == ["other work was running: load 3.0 on 2 cores at the start", "5 MiB were swapped out meanwhile"]
