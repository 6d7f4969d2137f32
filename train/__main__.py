"""python -m train fit RECIPE SHARDS…      train, or go on with a run
python -m train evaluate SHARDS…         measure a run
python -m train queries SHARDS…          the queries of a corpus, and who answers them
python -m train compare RUN RUN…         one table of evaluated runs
python -m train sheet SHARDS… --out DIR   chips of each class, as the labels have it
python -m train search TEXT SHARDS…      the chips nearest to a text
python -m train export DEST              a model folder that loads without the trainer
python -m train verify RUN…              whether runs still are what was written
python -m train doctor                   torch and the GPU
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harmonize.command import run_command, stop_on_interrupt
from harmonize.lock import locked
from harmonize.problem import Problem

if TYPE_CHECKING:
    from train.shards import Samples

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="From shards to a model, its measures, and a search. First: python -m train fit RECIPE SHARDS…",
)

Shards = Annotated[list[Path], typer.Argument(help="shard folders, e.g. data/real-samples/shards")]
MaybeShards = Annotated[list[Path] | None, typer.Argument(help="shard folders; default: those of the run")]
Runs = Annotated[Path, typer.Option("--runs", help="folder of the runs")]
RunName = Annotated[str | None, typer.Option("--run", help="name of the run; default: the newest finished one")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="leave out tars and samples that cannot be read")]
CacheGb = Annotated[
    float | None,
    typer.Option("--cache-gb", min=0, help="most that is kept of shards in a bucket; default: half of the free disk"),
]
RUNS = Path("runs")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def open_shards(folders: list[Path], runs: Path, skip_bad: bool, cache_gb: float | None = None) -> Samples:
    """The samples of folders, here or in a bucket; what is left out is said."""
    from train import shards

    samples = shards.open_shards(folders, skip_bad, runs / "cache", cache_gb)
    for line in samples.skipped:
        say(f"skipped: {line}")
    if samples.doubles:
        say(f"{samples.doubles} samples stand in more than one folder: each is read once")
    return samples


@app.command()
def fit(
    recipe: Annotated[Path, typer.Argument(help="a recipe, e.g. manifests/recipes/tiny.toml")],
    shards: Shards,
    runs: Runs = RUNS,
    run: Annotated[str | None, typer.Option("--run", help="name of the run; default <recipe>-<regions>")] = None,
    stop_at: Annotated[
        int | None, typer.Option(min=1, help="end this call after so many steps; the same call goes on")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="threads that read ahead; they change nothing but the time")
    ] = None,
    resident: Annotated[
        Literal["auto", "on", "off"], typer.Option(help="keep the split on the device; auto: on a GPU that has room")
    ] = "auto",
    skip_bad: SkipBad = False,
    cache_gb: CacheGb = None,
    wait: Annotated[bool, typer.Option("--wait", help="where another call trains this run, go on after it")] = False,
) -> None:
    """Train a recipe on shards. The same call again goes on where it was, or says that it is done."""
    from train import run as runs_of
    from train.order import check_order
    from train.recipe import load_recipe
    from train.shards import sensors_of, wanted_split

    loaded = load_recipe(recipe)
    samples = open_shards(shards, runs, skip_bad, cache_gb)
    train = wanted_split(samples, "train")
    folder = runs_of.run_folder(runs, run or runs_of.default_name(loaded, samples.regions))
    if runs_of.is_finished(folder, loaded, samples):
        say(f"{folder}: this run is finished")
        return
    counts = ", ".join(f"{len(train.of(sensor=s))} {s}" for s in sensors_of(train))
    say(f"{folder}: training on {counts}")
    if not len(samples.of("val")):
        say("no validation: split val is empty")
    unlabelled = int((train["label_mask"] == 0).sum())
    if unlabelled == len(train):
        raise Problem(
            "no training chip has a caption: none has a class above min_share",
            where=f"shards of {', '.join(samples.regions)}",
            fix="lower captions.min_share in the region's manifest, or check its label sources",
        )
    if unlabelled:
        say(f"{unlabelled} training chips have no class above min_share and so no caption: not used")
    check_order(train.where(train["label_mask"] != 0), loaded.data)
    if len(sensors_of(train)) < 2:
        say(f"only {sensors_of(train)[0]} is in these shards: the other sensor's tower is not trained")
    from train.loader import Loading
    from train.loop import fit as fit_loop
    from train.model import build_model

    loading = Loading(workers, resident=resident)
    with locked(folder, wait):
        if runs_of.is_finished(folder, loaded, samples):
            say(f"{folder}: this run is finished")  # by the one we waited for
            return
        model = build_model(loaded)  # before anything is written: a tower or weights may be missing
        runs_of.begin(folder, loaded, recipe, samples, shards)
        done = fit_loop(loaded, samples, folder, model, stop_at, loading)
        if done:
            runs_of.finish(folder)
    where = "" if runs == RUNS else f" RUNS={runs}"
    next_ = f"finished; next: make evaluate{where}, make search{where} QUERY=…"
    say(f"{folder}: {next_ if done else f'stopped at step {stop_at}; the same call goes on'}")


@app.command()
def evaluate(
    shards: MaybeShards = None,
    runs: Runs = RUNS,
    run: RunName = None,
    split: Annotated[str | None, typer.Option(help="searched split; default: the recipe's")] = None,
    min_relevant: Annotated[
        int | None, typer.Option(help="relevant images a query needs; default: the recipe's")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", help="a queries.json; default: the families of the split")
    ] = None,
    brief: Annotated[bool, typer.Option("--brief", help="print the paths alone")] = False,
    skip_bad: SkipBad = False,
    cache_gb: CacheGb = None,
) -> None:
    """Rank a split for families of queries; nDCG@1000, mAP, P@10 beside random, priors and a classifier."""
    from train.evaluate import evaluate as measure
    from train.queries import load_queries
    from train.report import print_result
    from train.run import finished_run, recipe_of, shards_of

    folder = finished_run(runs, run)
    wanted = recipe_of(folder).evaluation
    frozen = load_queries(queries) if queries else None
    samples = open_shards(shards_of(folder, shards), runs, skip_bad, cache_gb)
    # What a recipe asks for is asked of its own split.
    asked = wanted.model_dump(exclude_none=True)["asked"] if split in (None, wanted.split) else {}
    result = measure(folder, samples, split or wanted.split, min_relevant or wanted.min_relevant, asked, frozen)
    if result.get("again"):
        say(f"{folder}: evaluated already")
    if not brief:
        print_result(result)
    print(f"{folder / result['folder'] / 'metrics.json'}\n{folder / result['folder'] / 'report.html'}")


@app.command()
def queries(
    shards: Shards,
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    min_relevant: Annotated[int, typer.Option(min=1, help="relevant images a query needs")] = 10,
    out: Annotated[Path | None, typer.Option("--out", help="default: queries/<split> beside the shards")] = None,
    trec: Annotated[bool, typer.Option("--qrels", help="write qrels.trec too: the relevant images")] = False,
    zeros: Annotated[
        bool, typer.Option("--zeros", help="write qrels-zeros.trec: the irrelevant images too, for trec_eval -J")
    ] = False,
) -> None:
    """Write the queries a split can answer (queries.json), with the number of images that answer each."""
    from train.page import print_tables
    from train.queries import default_folder, write_queries

    folder = out or default_folder(shards, split)
    wanted = [name for name, asked in (("qrels.trec", trec), ("qrels-zeros.trec", zeros)) if asked]
    table = write_queries(open_shards(shards, RUNS, False), split, min_relevant, folder, wanted)
    if table is None:
        say(f"{folder}: written already")
    else:
        print_tables([table])
    for name in ("queries.json", *wanted):
        print(folder / name)


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN…", help="names of evaluated runs, the first one leads")],
    runs: Runs = RUNS,
    out: Annotated[Path | None, typer.Option("--out", help="default: <runs>/compare/<names>")] = None,
) -> None:
    """One table of several evaluated runs and their baselines, on the terminal and as compare.html and compare.json."""
    from train.compare import compare as tables_of
    from train.page import print_tables
    from train.run import finished_run

    folder = out or runs / "compare" / "+".join(names)
    print_tables(tables_of([finished_run(runs, name) for name in dict.fromkeys(names)], folder))
    print(f"{folder}/compare.html\n{folder}/compare.json")
    for name in dict.fromkeys(names):
        print(runs / name / "eval" / "report.html")


@app.command()
def sheet(
    shards: Shards,
    out: Annotated[Path, typer.Option("--out", help="folder to write")],
    split: Annotated[str | None, typer.Option(help="train, val or test; default all")] = None,
    skip_bad: SkipBad = False,
    cache_gb: CacheGb = None,
) -> None:
    """Contact sheets of what the labels say: per sensor one picture with a row of chips per class."""
    from train.label_sheet import write_label_sheets

    for path in write_label_sheets(open_shards(shards, RUNS, skip_bad, cache_gb), out, split):
        print(path)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help='e.g. "flooded area next to crops"')],
    shards: MaybeShards = None,
    runs: Runs = RUNS,
    run: RunName = None,
    top: Annotated[int, typer.Option(min=1, help="how many chips")] = 20,
    sensor: Annotated[str | None, typer.Option(help="s1 or s2; default both")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test; default all")] = None,
    skip_bad: SkipBad = False,
    cache_gb: CacheGb = None,
) -> None:
    """The chips nearest to a text, with score, labels, date, place and scene, and a contact sheet."""
    from train.run import finished_run, shards_of
    from train.search import search as find

    folder = finished_run(runs, run)
    path = find(folder, open_shards(shards_of(folder, shards), runs, skip_bad, cache_gb), text, top, sensor, split)
    print(path)


@app.command()
def export(
    dest: Annotated[Path, typer.Argument(help="folder to write")],
    runs: Runs = RUNS,
    run: RunName = None,
) -> None:
    """Copy a run's model (safetensors, config, tokenizer) to a folder, and check that it loads from there."""
    import shutil

    from train.model import load_model
    from train.run import finished_run

    folder = finished_run(runs, run)
    if dest.exists() and any(dest.iterdir()):
        raise Problem("the folder is not empty", where=str(dest), fix="name another one")
    load_model(folder)  # a damaged one is told by its own name, and not copied
    dest.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "config.json"):
        shutil.copyfile(folder / name, dest / name)
    if (folder / "tokenizer").is_dir():
        shutil.copytree(folder / "tokenizer", dest / "tokenizer")
    load_model(dest)
    print(dest)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="RUN…", help="names of runs; default: all")] = None,
    runs: Runs = RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="print a JSON object per run")] = False,
) -> None:
    """Whether checkpoints, models and results still are what was written: changes nothing, exit 4 where not."""
    import json

    from train.verify import finding_lines, runs_of, summary, verify_run

    damaged = False
    for folder in runs_of(runs, names or []):
        report = verify_run(folder)
        damaged = damaged or bool(report.findings)
        for line in [json.dumps(report.as_json())] if as_json else finding_lines(report):
            print(line)
        say(summary(report))
    if damaged:
        raise typer.Exit(4)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="print a JSON object")] = False) -> None:
    """torch, its packages and the GPU, with what to do where one is wrong. `python -m pipeline doctor` has the rest."""
    import json

    from train.doctor import examine

    checks = list(examine())
    if as_json:
        print(json.dumps({"checks": checks}, indent=1))
    else:
        for one in checks:
            fix = f"\n{'':<20}fix: {one['fix']}" if one["fix"] else ""
            print(f"{one['state']:<8}{one['what']:<12}{one['said']}{fix}")
    if any(one["state"] == "wrong" for one in checks):
        raise typer.Exit(1)


def main() -> None:
    # Threads that wait sleep instead of spinning: on a machine that others use too, training ran up to five times as
    # fast. It is read when torch is first imported; the numbers that come out are the same.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    run_command(app)


if __name__ == "__main__":
    stop_on_interrupt()
    main()
