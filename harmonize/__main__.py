"""python -m harmonize                    lists the crosswalks and the vocabulary
python -m harmonize corine                prints one, and says what it leaves open
python -m harmonize corine --against bigearthnet-43    where two of them differ, by name
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from harmonize.command import run_command, stop_on_interrupt
from harmonize.crosswalk import COLUMNS, NOTE, Crosswalk, Row, compare, parse_crosswalk
from harmonize.problem import Problem, nearest
from harmonize.vocabulary import BIT, CRISES, LAND_COVER

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="a crosswalk of manifests/labels, or the path of a CSV")] = "",
    against: Annotated[str, typer.Option(help="another crosswalk: where the two differ, name by name")] = "",
    plain: Annotated[bool, typer.Option("--csv", help="as CSV, without a word about it")] = False,
) -> None:
    """What every code of a label source is called in the vocabulary. Without a name: the crosswalks there are."""
    if not name:
        if against or plain:
            raise Problem("no crosswalk is named", fix="python -m harmonize corine …")
        _list_all()
    elif against:
        _print_differences(_load(name), _load(against), plain)
    elif plain:
        _print_csv((*COLUMNS, NOTE), [_cells(row) for row in _load(name).rows.values()])
    else:
        _print_crosswalk(_load(name))


def labels_folder() -> Path:
    """`manifests/labels` of the folder we run in, else of the checkout this package stands in."""
    here = Path("manifests/labels")
    return here if here.is_dir() else Path(__file__).resolve().parent.parent / here


def _load(name: str) -> Crosswalk:
    path = Path(name) if name.endswith(".csv") else labels_folder() / f"{name}.csv"
    try:
        return parse_crosswalk(path.read_bytes(), str(path))
    except FileNotFoundError:
        known = nearest(path.stem, [p.stem for p in labels_folder().glob("*.csv")])
        raise Problem(f"there is no crosswalk '{name}'", where=str(path), fix=f"{known}; or give a path") from None
    except OSError as error:
        raise Problem(f"cannot read this crosswalk: {error.strerror}", where=str(path)) from None


def _list_all() -> None:
    paths = sorted(labels_folder().glob("*.csv"))
    if not paths:
        raise Problem("there is no crosswalk", where=str(labels_folder()), fix="run this in the checkout")
    table = []
    for crosswalk in (_load(str(path)) for path in paths):
        rows = list(crosswalk.rows.values())
        published = sum(row.status == "published" for row in rows)
        numbers = (len(rows), published, len(rows) - published, len(crosswalk.unmapped))
        table.append((Path(crosswalk.path).stem, *map(str, numbers), _listed(_of(crosswalk.unsaid, LAND_COVER))))
    _print_table(("crosswalk", "codes", "published", "judgement", "unmapped", "land cover it cannot say"), table)
    print(f"\nThe vocabulary ({labels_folder()} translates into it):")
    _print_table(("bit", "mask", "class"), [(str(k), f"0x{1 << k:03x}", class_) for class_, k in BIT.items()])
    print("\npython -m harmonize corine prints one of them")


def _print_crosswalk(crosswalk: Crosswalk) -> None:
    table = [(*COLUMNS, NOTE), *(_cells(row) for row in crosswalk.rows.values())]
    if all(row.name == code for code, row in crosswalk.rows.items()):
        table = [(code, *rest) for code, _, *rest in table]  # a source that goes by name: once is enough
    _print_table(table[0], table[1:])
    unmapped = [f"{row.code} {row.name}" if row.name != row.code else row.code for row in crosswalk.unmapped]
    print(f"\n{len(crosswalk.rows)} codes of {crosswalk.path}")
    print(f"unmapped (the ground there counts as not labelled): {_listed(unmapped)}")
    print(f"land cover this source cannot say: {_listed(_of(crosswalk.unsaid, LAND_COVER))}")
    print(f"crises this source cannot say:     {_listed(_of(crosswalk.unsaid, CRISES))}")


def _print_differences(crosswalk: Crosswalk, other: Crosswalk, plain: bool) -> None:
    found = [
        (d.name, " ".join(code for code in d.codes if code != d.name), d.ours or "-", d.theirs or "-", d.argument)
        for d in compare(crosswalk, other.by_name())
    ]
    head = ("name", "codes", Path(crosswalk.path).stem, Path(other.path).stem, "argument")
    if plain:
        _print_csv(head, found)
    elif found:
        _print_table(head, found)
    else:
        print(f"{crosswalk.path} and {other.path} say the same of every name")


def _cells(row: Row) -> tuple[str, ...]:
    return row.code, row.name, row.class_ or "", row.status, row.note


def _of(names: Iterable[str], kind: Sequence[str]) -> list[str]:
    return [name for name in names if name in kind]


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words) or "none"


def _print_csv(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)


def _print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*head, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    if console.is_terminal:
        console.print(table)
        return
    wide = Console(width=400)  # a pipe has no width: nothing may be cut off there
    with wide.capture() as text:
        wide.print(table)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


def main() -> None:
    run_command(app)


if __name__ == "__main__":
    stop_on_interrupt()
    main()
