"""`mlx-loopai report`: writes the HTML report of a training run or of a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_loopai.cli.output import emit, json_option, quiet_option, say_next
from mlx_loopai.language import in_use

if TYPE_CHECKING:
    from mlx_loopai.report.assemble import Report


@click.command("report")
@click.argument("source", metavar="RUN_OR_JSON", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="The HTML file. [default: report.html in or next to RUN_OR_JSON]"
)
@json_option
@quiet_option
def command(source: Path, out: Path | None, as_json: bool, quiet: bool) -> None:
    """Write the HTML report of a training run or of a comparison, and print its path.

    RUN_OR_JSON is the folder of `train` or `demo`, or the JSON file of a comparison. The page is one file that needs
    no network, in English and Korean, the language in use first: verdict, figures, curves, answers side by side,
    change by layer, data, settings.

    \b
    mlx-loopai report runs/first
    mlx-loopai report runs/demo/demo.json --out demo.html
    """
    place, report = _write(source, out, quiet)
    emit({"report": place, "kind": report.kind, "passes": report.passes}, as_json, str(place))
    if report.kind == "run" and source.is_dir():
        say_next(f"chat --adapter {source}", as_json, quiet)


def write_report(source: Path, out: Path | None = None, quiet: bool = True) -> Path:
    """Write the report of `source`. Returns: its path. Raises: InputError when there is nothing to report."""
    return _write(source, out, quiet)[0]


def _write(source: Path, out: Path | None, quiet: bool) -> tuple[Path, Report]:
    from mlx_loopai.cli.listener import progress_listener
    from mlx_loopai.report.assemble import default_place, report_of, write_page

    with progress_listener(quiet) as shown:
        report = report_of(source, in_use(), shown)
    place = out or default_place(source)
    write_page(report.html, place)
    return place, report
