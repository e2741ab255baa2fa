"""What is read of the machine."""

from __future__ import annotations

from pathlib import Path

from benchmarks.commands import environment
from benchmarks.gpu import gpu_machine


def test_nvidia_smi_is_asked_field_by_field_where_it_knows_one_not(monkeypatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$1" in *bogus*) exit 2;; esac\necho "NVIDIA H200, [N/A], 1980 MHz"\n', encoding="utf-8"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fields = ("name", "power.limit", "clocks.sm")
    assert gpu_machine.ask_nvidia_smi(fields) == {"name": "NVIDIA H200", "clocks.sm": "1980 MHz"}
    assert gpu_machine.ask_nvidia_smi(("name", "bogus")) == {"name": "NVIDIA H200"}
    program.unlink()
    assert gpu_machine.ask_nvidia_smi(fields) == {}


def test_cuda_numbers_cards_as_nvidia_smi_does() -> None:
    """The card whose clocks are recorded is the one that is timed, for child processes too."""
    assert environment()["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
