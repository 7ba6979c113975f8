"""Problems of Macs in particular, each with its cure and a source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from mlx_loopai.benchmark.conditions import State
from mlx_loopai.language import tr
from mlx_loopai.memory.machine import usual_share
from mlx_loopai.units import GIB, format_bytes

# If more swap is in use, a run's memory will be swapped too, and macOS will write it to the SSD again and again.
_MUCH_SWAP_BYTES = 2 * GIB
# A working set that differs more than this from the usual one was set by somebody.
_USUAL_DISTANCE = 0.03
# Programs that keep models in the GPU's memory, as `ps` names them.
_HOLD_THE_GPU = ("ollama", "LM Studio", "llama-server", "mlx_lm.server", "omlx", "Draw Things", "ComfyUI", "koboldcpp")
# Kernel panics of Apple's GPU driver ("completeMemory() prepare count underflow") under MLX's load, by macOS version.
# Source: github.com/ml-explore/mlx issues 3186 and 3346, mlx-lm issue 1666, jundot/omlx issues 300, 862 and 1265.
_PANICKED = ("15.7", "26.3", "26.4", "26.5")


@dataclass(frozen=True)
class Problem:
    what: str
    cure: str


@dataclass(frozen=True)
class Mac:
    """The state of a Mac. neighbours: running programs that keep models in the GPU's memory."""

    release: str
    ram_bytes: int
    working_set_bytes: int
    wired_limit_bytes: int
    state: State
    neighbours: tuple[str, ...]


def neighbours_in(processes: str) -> tuple[str, ...]:
    """The programs that hold the GPU, in what `ps -axo comm=` prints."""
    running = {PurePath(line.strip()).name.lower() for line in processes.splitlines() if line.strip()}
    return tuple(name for name in _HOLD_THE_GPU if name.lower() in running)


def mac_problems(mac: Mac) -> list[Problem]:
    """What would go wrong on this Mac now, each with a cure."""
    return [*_room(mac), *_speed(mac.state)]


def mac_notes(release: str) -> list[str]:
    """Known problems of such Macs that cannot be detected beforehand."""
    # github.com/ml-explore/mlx/issues/3267; the setting helped one of its reporters.
    found = [
        tr(
            "macOS may end long GPU work while the display is on (mlx issue 3267); if training ends with a GPU timeout,"
            " set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1 or let the display sleep, and continue with --resume"
        )
    ]
    if ".".join(release.split(".")[:2]) in _PANICKED:
        found.append(
            tr(
                "the GPU driver of macOS {release} has ended in kernel panics under long MLX work (mlx issues 3186, "
                "3346); keep train.save_every small, and continue with --resume",
                release=release,
            )
        )
    return found


def _room(mac: Mac) -> Iterable[Problem]:
    usual = int(usual_share(mac.ram_bytes, mac.release) * mac.ram_bytes)
    # The setting can raise or lower W; without it W follows the system's policy.
    lowered = mac.working_set_bytes < (1 - _USUAL_DISTANCE) * usual
    if lowered and mac.wired_limit_bytes:
        yield Problem(
            tr(
                "the GPU may use {size}; Macs like this one allow {usual}",
                size=format_bytes(mac.working_set_bytes),
                usual=format_bytes(usual),
            ),
            tr("iogpu.wired_limit_mb is set: sudo sysctl iogpu.wired_limit_mb=0"),
        )
    swap = mac.state.swap_used_bytes or 0
    if swap > _MUCH_SWAP_BYTES:
        yield Problem(
            tr("{size} are swapped out", size=format_bytes(swap)), tr("close programs, or restart, before a long run")
        )
    if mac.state.pressure in ("warning", "critical"):
        yield Problem(
            tr("memory pressure is {pressure}", pressure=mac.state.pressure),
            tr("close programs; a run would stop itself soon"),
        )
    if mac.neighbours:
        yield Problem(
            tr("{neighbours} may hold models in the GPU's memory", neighbours=", ".join(mac.neighbours)),
            tr("quit them: plans do not count them"),
        )


def _speed(state: State) -> Iterable[Problem]:
    # An M4 Pro's GPU renders at 69 % (eclecticlight.co, January 2025); an M4 trains at about two thirds.
    if state.power == "low power mode":
        yield Problem(
            tr("low power mode is on: the GPU runs at about two thirds"),
            tr("System Settings, Battery or Energy: Never"),
        )
    if state.thermal not in (None, "nominal"):
        yield Problem(
            tr("the chip is slowed by heat: {thermal}", thermal=state.thermal),
            tr("let it cool; fanless Macs slow down in minutes"),
        )
