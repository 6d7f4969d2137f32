"""python -m pipeline                     prints the stages
python -m pipeline STAGE REGION           runs one stage alone
python -m pipeline build REGION --to shards    runs what is not up to date, upstream first
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from harmonize.command import run_command, stop_on_interrupt
from harmonize.problem import Problem

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=False)

RegionArg = Annotated[Path, typer.Argument(help="a region's manifest, e.g. manifests/regions/veneto-2018.toml")]
Out = Annotated[str, typer.Option("--out", help="folder or bucket that holds one folder per region")]
DATA = "data"
Wait = Annotated[bool, typer.Option("--wait", help="where another run writes the region, go on after it")]
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed",
        help="try rows again that could not be read (`unreadable` in `dropped`), and no others: an archive may have "
        "been in trouble. A stage that runs anyway tries them too; a local file that was mended is seen without this",
    ),
]
Address = Annotated[
    str,
    typer.Option("--scheduler", help="address of a dask scheduler; empty: this machine's cores; serial: one by one"),
]


@app.callback(invoke_without_command=True)
def overview(context: typer.Context) -> None:
    """From a region manifest to shards. Without a command: the stages, with what each reads and writes."""
    if context.invoked_subcommand is None:
        from pipeline.stages import STAGES

        for stage in STAGES.values():
            reads = ", ".join(stage.reads) or "the manifest"
            print(f"{stage.name:<9} {reads:<24} -> {stage.writes:<17} {stage.does}")
        print("\npython -m pipeline STAGE REGION runs one alone; --help lists the other commands")


@app.command()
def build(
    regions: Annotated[list[Path], typer.Argument(help="manifests of one or more regions")],
    to: Annotated[str, typer.Option("--to", help="last stage to run")] = "captions",
    out: Out = DATA,
    scheduler: Address = "",
    wait: Wait = False,
    retry_failed: RetryFailed = False,
) -> None:
    """Run every stage up to --to that is not up to date, and say why."""
    from pipeline import runner, states
    from pipeline.cluster import Scheduler

    _known(to)
    failed, reasons = 0, list[str]()
    with Scheduler(scheduler) as jobs:
        jobs.connect()  # a wrong address is told before anything is asked of an archive
        for path in regions:
            region, store = runner.load(path, out)
            done = runner.run_upto(region, store, to, scheduler=jobs, wait=wait, retry_failed=retry_failed)
            failed += states.failed_rows(store, to)
            reasons += states.failures(store, to)
            if not done:
                runner.say(f"{region.name}: everything up to {to} is up to date")
            elif to == "shards":
                runner.say(f"{region.name}: the tars are in {store.root}/shards; next: make verify, or make train")
    _leave(failed, reasons)


@app.command()
def redo(
    stage: Annotated[str, typer.Argument(help="first stage to run again")],
    region: RegionArg,
    to: Annotated[str, typer.Option("--to", help="last stage to run")] = "shards",
    out: Out = DATA,
    scheduler: Address = "",
    wait: Wait = False,
) -> None:
    """Run a stage and everything after it again, nothing before it."""
    from pipeline import runner, states
    from pipeline.cluster import Scheduler

    _known(stage)
    _known(to)
    loaded, store = runner.load(region, out)
    with Scheduler(scheduler) as jobs:
        runner.redo(loaded, store, stage, to, scheduler=jobs, wait=wait)
    _leave(states.failed_rows(store, to), states.failures(store, to))


@app.command()
def status(regions: Annotated[list[Path], typer.Argument(help="manifests")], out: Out = DATA) -> None:
    """Which stages of a region are up to date, and why the others are not."""
    from pipeline import runner, states
    from pipeline.receipt import UNREADABLE

    for path in regions:
        region, store = runner.load(path, out)
        print(f"{region.name}  ({store.root})")
        for name, state in states.states(region, store, "shards").items():
            r = state.receipt
            rows = f"{r.kept} of {r.rows_in} rows" if r else ""
            if r and name in states.READING and (lost := r.dropped.get(UNREADABLE)):
                rows += f", {lost} unreadable"
            print(f"  {name:<9} {state.reason or 'up to date':<44} {rows}")


@app.command()
def verify(
    places: Annotated[list[str], typer.Argument(help="manifests of regions, or folders of a region or of shards")],
    sample: Annotated[str, typer.Option("--sample", help="share of the samples to hash array by array")] = "5%",
    as_json: Annotated[bool, typer.Option("--json", help="print a JSON object per place")] = False,
    out: Out = DATA,
    scheduler: Address = "",
) -> None:
    """Whether tables, pixels and shards still are what was written: reads all, changes nothing, exit 4 where not."""
    import json

    from pipeline import runner
    from pipeline import verify as verifying
    from pipeline.cluster import Scheduler

    reports, share = [], verifying.share_of(sample)
    with Scheduler(scheduler) as jobs:
        for target in [verifying.target_of(place, out) for place in places]:
            report = verifying.verify(target, share, jobs)
            reports.append(report)
            lines = [json.dumps(report.as_json())] if as_json else map(verifying.finding_line, report.findings)
            print("".join(f"{line}\n" for line in lines), end="")
            runner.say(verifying.summary(report))
    if any(report.findings for report in reports):
        raise typer.Exit(4)


@app.command()
def show(
    chip: Annotated[str, typer.Argument(help="chip_id, or a cell for all its chips")],
    out: Out = DATA,
    netcdf: Annotated[Path | None, typer.Option(help="write NetCDF here")] = None,
    tif: Annotated[Path | None, typer.Option(help="write a GeoTIFF here (10 m, coarser bands repeated)")] = None,
    png: Annotated[Path | None, typer.Option(help="write a quick look here")] = None,
) -> None:
    """What a chip is, and its pixels as NetCDF, GeoTIFF or picture."""
    from pipeline.show import show_chip

    show_chip(chip, out, netcdf, tif, png)


@app.command()
def manifest() -> None:
    """Print every key of a region's manifest and of a source: type, default, meaning."""
    from pipeline.manifest_help import manifest_lines

    print("\n".join(manifest_lines()))


@app.command()
def gdacs(
    file: Annotated[Path, typer.Argument(help="a saved answer of the GDACS API (geteventlist/SEARCH, GeoJSON)")],
    region: Annotated[Path | None, typer.Option(help="say what lies in this manifest's area and period")] = None,
    kind: Annotated[str, typer.Option(help="flood, fire or earthquake; empty: all")] = "",
    toml: Annotated[bool, typer.Option("--toml", help="print entries for a manifest, of those near --region")] = False,
) -> None:
    """List the floods, fires and earthquakes of a GDACS catalogue: where and when, for choosing events of a region.

    Its polygons are areas of alerts, no extents: what the ground shows must come from somewhere else.
    """
    from harmonize.problem import nearest
    from pipeline.gdacs import KINDS, report
    from pipeline.region import load_region

    if kind and kind not in KINDS.values():
        raise Problem(f"there is no kind '{kind}'", fix=nearest(kind, KINDS.values()))
    print(report(file, load_region(region) if region else None, kind, toml))


@app.command(name="label-map")
def label_map(
    region: RegionArg,
    cells: Annotated[list[str] | None, typer.Argument(help="cells to draw; none: some, spread over the region")] = None,
    png: Annotated[Path, typer.Option(help="where the picture goes")] = Path("label-map.png"),
    number: Annotated[int, typer.Option("--number", min=1, help="how many cells, where none is named")] = 6,
    out: Out = DATA,
) -> None:
    """A picture of some cells: the image, each label source as its file has it, and as it was counted."""
    from pipeline import runner, tables
    from pipeline.label_map import NEEDS, write_label_map
    from pipeline.work import Work

    loaded, store = runner.load(region, out)
    read = {name: tables.read_table(store, f"{name}.parquet", schema) for name, schema in NEEDS.items()}
    write_label_map(Work(loaded, store, read), cells or [], number, png)
    print(f"wrote {png}")


@app.command()
def agreement(region: RegionArg, out: Out = DATA) -> None:
    """How far the label sources of a region say the same of the same cells, class by class."""
    from pipeline import runner
    from pipeline.label_agreement import say_agreement

    print(say_agreement(*runner.load(region, out)))


@app.command()
def splits(
    region: RegionArg,
    out: Out = DATA,
    png: Annotated[Path | None, typer.Option(help="draw a map of the splits here")] = None,
) -> None:
    """How the classes are spread over train, val and test, and what of train can be seen in the others."""
    from pipeline import runner
    from pipeline.splits import show_splits

    show_splits(*runner.load(region, out), png)


@app.command()
def doctor(
    region: Annotated[
        Path | None, typer.Argument(help="a region's manifest: its files and APIs are looked at too")
    ] = None,
    out: Out = DATA,
    runs: Annotated[str, typer.Option("--runs", help="folder of the training runs")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="print a JSON object")] = False,
) -> None:
    """Whether this machine and what it asks can do the work, and what to do where not; exit 1 where something is wrong.

    What cannot be reached is told and is not wrong. Nothing is written, and no credential is printed.
    """
    from pipeline.doctor import examine, report

    if not report(examine(region, out, runs), as_json):
        raise typer.Exit(1)


def _leave(failed: int, reasons: Sequence[str] = ()) -> None:
    """Code 3 where rows failed: everything else is done, and those rows stand in their table with the reason."""
    if failed:
        from pipeline.runner import say

        say("\n".join([f"finished, but {failed} rows could not be read:", *(f"  {reason}" for reason in reasons)]))
        print("  fix:   the same command with --retry-failed tries those rows again (make …: ARGS=)", file=sys.stderr)
        raise typer.Exit(3)


def _known(stage: str) -> None:
    from harmonize.problem import nearest
    from pipeline.stages import STAGES

    if stage not in STAGES:
        raise Problem(f"there is no stage '{stage}'", fix=nearest(stage, STAGES))


def _add_stage(name: str, does: str) -> None:
    def command(
        region: RegionArg,
        out: Out = DATA,
        scheduler: Address = "",
        wait: Wait = False,
        retry_failed: RetryFailed = False,
    ) -> None:
        _run_stage(region, out, name, scheduler, wait, retry_failed)

    command.__doc__ = f"Stage: {does}."
    app.command(name)(command)


@app.command()
def scenes(
    region: RegionArg,
    out: Out = DATA,
    scheduler: Address = "",
    wait: Wait = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be asked of which API, and ask nothing")
    ] = False,
) -> None:
    """Stage: find the STAC items to use."""
    if dry_run:
        from pipeline.dry_run import say_plan
        from pipeline.region import load_region

        print("\n".join(say_plan(load_region(region))))
    else:
        _run_stage(region, out, "scenes", scheduler, wait)


@app.command()
def shards(
    region: Annotated[str, typer.Argument(help="a region's manifest; with --info a folder of shards too")],
    out: Out = DATA,
    scheduler: Address = "",
    wait: Wait = False,
    info: Annotated[bool, typer.Option("--info", help="print what is inside the shards, and run nothing")] = False,
) -> None:
    """Stage: WebDataset tars, index and card."""
    if info:
        from pipeline.info import shards_info
        from pipeline.verify import target_of

        target = target_of(region, out)
        print("\n".join(shards_info(target.store, target.shards)))
    else:
        _run_stage(Path(region), out, "shards", scheduler, wait)


def _run_stage(
    region: Path, out: str, name: str, scheduler: str, wait: bool = False, retry_failed: bool = False
) -> None:
    from pipeline import runner, states
    from pipeline.cluster import Scheduler

    loaded, store = runner.load(region, out)
    with Scheduler(scheduler) as jobs:
        receipt = runner.run_alone(loaded, store, name, scheduler=jobs, wait=wait, retry_failed=retry_failed)
    if receipt is None:
        runner.say(f"{loaded.name}: {name} is up to date")
    if name in states.READING:
        _leave(states.failed_rows(store, name), states.failures(store, name))


for _name, _does in (
    ("screen", "grid x footprints = candidates"),
    ("chips", "choose acquisitions per cell and sensor"),
    ("pixels", "read, harmonise, cut and store chips"),
    ("labels", "area share of every label code per cell"),
    ("captions", "label sets, captions and splits"),
):
    _add_stage(_name, _does)


def main() -> None:
    run_command(app)


if __name__ == "__main__":
    stop_on_interrupt()
    main()
