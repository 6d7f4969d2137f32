"""Crosswalks: every row against what was published, every mistake a clear error, and what `python -m harmonize` prints.

corine_published.csv: CORINE's legend (grid value, code, official name), the mapping published with CLOSP by BigEarthNet's
spelling of the same classes (DarthReca/closp dataset/mapping.py, Apache-2.0, snapshot of 2025-07-22), and the class of
BigEarthNet-19 that each one went into (torchgeo, kai-tub/bigearthnet_common).
"""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from harmonize.crosswalk import Crosswalk, Difference, compare, parse_crosswalk
from harmonize.problem import Problem
from harmonize.vocabulary import BIT, CLASSES, CRISES, LAND_COVER

LABELS = ROOT / "manifests/labels"
LEGEND = list(csv.DictReader((ROOT / "tests/corine_published.csv").read_text("utf-8").splitlines()))
HEAD = "code,name,class,status,note\n"
OFFICIAL_ONLY = {
    "Natural grasslands": "Natural grassland",
    "Transitional woodland-shrub": "Transitional woodland/shrub",
    "Bare rocks": "Bare rock",
    "Peat bogs": "Peatbogs",
}
"""CORINE's spelling of four classes -> the published one."""


def load(name: str) -> Crosswalk:
    return parse_crosswalk((LABELS / f"{name}.csv").read_bytes(), name)


def published() -> dict[str, str | None]:
    """Published name -> class of the vocabulary; the published classes are spelled as CrisisLandMark spells them."""
    spelled = load("crisislandmark")
    return {row["published_name"]: spelled.classify(row["published_class"]) for row in LEGEND}


def test_corine_has_every_code_with_its_official_name() -> None:
    rows = load("corine").rows
    wanted = {row[key]: row["official_name"] for key in ("raster_value", "clc_code") for row in LEGEND}
    assert {code: row.name for code, row in rows.items()} == wanted
    assert len(rows) == 88
    for row in LEGEND:
        assert rows[row["raster_value"]].class_ == rows[row["clc_code"]].class_
        assert row["clc_code"] in rows[row["raster_value"]].note
        assert rows[row["clc_code"]].note.startswith(f"raster value {row['raster_value']}")


def test_corine_is_as_published_but_for_four_spellings() -> None:
    mapping, corine = published(), load("corine")
    assert len(mapping) == 44
    found = compare(corine, mapping)
    ours = [d for d in found if d.codes]
    assert {d.name: mapping[OFFICIAL_ONLY[d.name]] for d in ours} == {d.name: d.ours for d in ours}
    assert {d.name for d in ours} == set(OFFICIAL_ONLY)
    for d in ours:
        assert len(d.codes) == 2
        assert d.theirs is None
        assert f"published as '{OFFICIAL_ONLY[d.name]}'" in d.argument
    assert {d.name for d in found if not d.codes} == set(OFFICIAL_ONLY.values())


def test_bigearthnet_43_takes_both_spellings() -> None:
    crosswalk = load("bigearthnet-43")
    found = compare(crosswalk, published())
    assert {d.name for d in found} == set(OFFICIAL_ONLY)
    for d in found:
        assert d.ours == crosswalk.classify(OFFICIAL_ONLY[d.name])
        assert d.argument.startswith("judgement: ")
    for row in LEGEND:
        assert crosswalk.classify(row["official_name"]) == crosswalk.classify(row["published_name"])
        assert crosswalk.rows[row["published_name"]].status == "published"


def test_bigearthnet_19_is_published_where_the_name_is_and_argued_elsewhere() -> None:
    crosswalk, mapping = load("bigearthnet-19"), published()
    members: dict[str, set[str | None]] = {}
    for row in LEGEND:
        if row["bigearthnet19"]:
            members.setdefault(row["bigearthnet19"], set()).add(mapping[row["published_name"]])
    assert set(crosswalk.rows) == set(members)
    assert len(members) == 19
    for name, row in crosswalk.rows.items():
        assert row.status == ("published" if name in mapping else "judgement")
        assert row.class_ in members[name]
        if name in mapping:
            assert row.class_ == mapping[name]
        else:
            assert "CLC " in row.note
    mixed = {name for name, classes in members.items() if len(classes) > 1}
    assert mixed == {"Arable land", "Natural grassland and sparsely vegetated areas", "Coastal wetlands"}
    for name in mixed:
        (other,) = members[name] - {crosswalk.classify(name)}
        assert str(other) in crosswalk.rows[name].note


def test_crisislandmark_has_the_twelve() -> None:
    rows = load("crisislandmark").rows
    assert {row.class_ for row in rows.values()} == set(CLASSES)
    assert all(name.lower() == row.class_ for name, row in rows.items())


@pytest.mark.parametrize(
    ("name", "codes", "nodata"),
    [
        ("dynamic-world", [*range(9)], []),
        ("io-lulc", [0, 1, 2, 4, 5, 7, 8, 9, 10, 11], ["0", "10"]),
        ("worldcover", [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100], ["0"]),
    ],
)
def test_global_maps_have_every_code(name: str, codes: list[int], nodata: list[str]) -> None:
    crosswalk = load(name)
    assert list(crosswalk.rows) == list(map(str, codes))
    assert [row.code for row in crosswalk.unmapped] == nodata
    assert [c for c in crosswalk.unsaid if c in LAND_COVER] == (["shrub and scrub"] if name == "io-lulc" else [])
    if name == "dynamic-world":
        assert [crosswalk.classify(str(k)) for k in range(9)] == list(LAND_COVER)
    for row in crosswalk.rows.values():
        assert row.note or row.class_ is None or row.status == "published"


@pytest.mark.parametrize("name", sorted(path.stem for path in LABELS.glob("*.csv")))
def test_a_file_is_plain(name: str) -> None:
    """UTF-8 without a mark, LF, no field that a spreadsheet would run, and every judgement about a class is argued."""
    raw = (LABELS / f"{name}.csv").read_bytes()
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert b"\r" not in raw
    assert raw.endswith(b"\n")
    for row in load(name).rows.values():
        assert not any(field.startswith(tuple("=+-@")) for field in (row.code, row.name, row.note))
        assert row.note or row.status == "published" or row.class_ is None


def test_real_bigearthnet_names_are_all_known(real_folder: Path) -> None:
    names = set()
    for row in csv.DictReader((real_folder / "catalog/bigearthnet_labels.csv").read_text().splitlines()):
        names |= set(row["clc_labels"].split("; "))
    crosswalk = load("bigearthnet-43")
    assert {crosswalk.classify(name) for name in names} == {"crops", "grass", "trees", "water"}


def test_real_rows_of_reben_are_all_known(real_folder: Path) -> None:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    labels = pq.read_table(real_folder / "labels/bigearthnet_v2_labels_train.parquet", columns=["labels"])["labels"]
    names = pc.unique(pc.list_flatten(labels)).to_pylist()
    assert sorted(names) == sorted(load("bigearthnet-19").rows)


MISTAKES = {
    "no file": ("", ["lacks the column code, name, class, status"]),
    "no line": (HEAD, ["has no line", "line"]),
    "no column": ("code,class\n1,water\n", ["lacks the column name, status", "code, name, class, status, note"]),
    "semicolons": ("code;name;class;status\n1;a;water;judgement\n", ["lacks the column", "not by ';'"]),
    "tabs": ("code\tname\tclass\tstatus\n", ["lacks the column", "not by '\\t'"]),
    "column twice": ("code,name,class,status,class\n1,a,water,judgement,crops\n", ["column class stands twice", "line 1"]),
    "code twice": (HEAD + "1,a,water,judgement,\n\n1,b,crops,judgement,\n", ["code 1 stands twice", "line 4", "2 and 4"]),
    "number twice": (HEAD + "1,a,water,judgement,\n1.0,b,crops,judgement,\n", ["code 1.0 is 1 written another way", "2 and 3"]),
    "number with zeros": (HEAD + "01,a,water,judgement,\n1,b,crops,judgement,\n", ["code 1 is 01 written another way"]),
    "row twice": (HEAD + "1,a,water,judgement,\n1,a,water,judgement,\n", ["code 1 stands twice", "line 3"]),
    "unknown class": (HEAD + "1,a,watr,judgement,\n", ["'watr' is not in the vocabulary", "line 2", "did you mean 'water'"]),
    "class in capitals": (HEAD + "1,a,Water,judgement,\n", ["'Water' is not in the vocabulary", "did you mean 'water'"]),
    "two classes": (HEAD + "1,a,water;trees,judgement,\n", ["'water;trees' is not in the vocabulary"]),
    "unknown status": (HEAD + "1,a,water,guess,\n", ["status 'guess'", "line 2", "published or judgement"]),
    "no status": (HEAD + "1,a,water\n", ["status '' is not known", "line 2"]),
    "no code": (HEAD + ",a,water,judgement,\n", ["no code", "line 2"]),
    "comma in a name": (HEAD + "1,Beaches, dunes,bare,judgement,\n", ["6 fields", "5 columns", "line 2", "quotes"]),
    "open quote": (HEAD + '1,"a,water,judgement,\n2,b,crops,judgement,\n', ["not CSV", "quote"]),
    "quote inside": (HEAD + '1,"a"b",water,judgement,\n', ["not CSV", "line 2"]),
    "a name of two lines": (HEAD + '1,"a\nb",water,judgement,\n', ["name holds the character U+000A", "line 3"]),
    "a terminal's escape": (HEAD + "1,\x1b[31ma,water,judgement,\n", ["name holds the character U+001B"]),
    "a space that is none": (HEAD + "Bare\u00a0rock,a,bare,judgement,\n", ["code holds the character U+00A0"]),
    "Latin-1": ((HEAD + "1,a,water,judgement,\n2,Gewässer,water,judgement,\n").encode("latin-1"), ["not UTF-8", "line 3"]),
    "UTF-16": ((HEAD + "1,a,water,judgement,\n").encode("utf-16"), ["not UTF-8", "line 1"]),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_explained(case: str) -> None:
    text, wanted = MISTAKES[case]
    with pytest.raises(Problem) as caught:
        parse_crosswalk(text, "here.csv")
    for words in ("here.csv", *wanted):
        assert words in str(caught.value)


def test_what_a_spreadsheet_writes_is_read() -> None:
    """A byte-order mark, CRLF, spaces, quotes, blank lines, columns of one's own, a field that looks like a formula."""
    text = '\ufeffcode, name ,class,status,note,mine\r\n\r\n 1 ,"Beaches, ""dunes""",bare,judgement,=1+1,x\r\n2,b,,judgement\r\n'
    crosswalk = parse_crosswalk(text.encode(), "x.csv")
    row = crosswalk.rows["1"]
    assert (row.name, row.class_, row.note) == ('Beaches, "dunes"', "bare", "=1+1")
    assert crosswalk.classify("2") is None
    assert [r.code for r in crosswalk.unmapped] == ["2"]
    assert crosswalk.unsaid == [c for c in CLASSES if c != "bare"]


@pytest.mark.parametrize(
    ("name", "code", "wanted", "unwanted"),
    [
        ("corine", "45", ["add the line '45,<name>,<class>,judgement'"], "did you mean"),
        ("corine", "Bare rocks", ["name of code 31 and 332", "goes by code"], "did you mean"),
        ("bigearthnet-43", "Natural grasland", ["did you mean 'Natural grassland'", "letter by letter"], "by code"),
        ("bigearthnet-43", "peatbogs", ["did you mean 'Peatbogs'", "letter by letter"], "by code"),
        ("bigearthnet-43", " Pastures", ["did you mean 'Pastures'"], "by code"),
        ("bigearthnet-19", "Transitional woodland/shrub", ["did you mean 'Transitional woodland, shrub'"], "by code"),
        ("bigearthnet-43", "Moors, heath", ['add the line \'"Moors, heath",<name>'], "by code"),
        ("bigearthnet-43", "Xylophone", ["add the line 'Xylophone,<name>"], "did you mean"),
        ("dynamic-world", "9", ["add the line '9,"], "did you mean"),
    ],
)
def test_an_unknown_code_names_the_line_to_add(name: str, code: str, wanted: list[str], unwanted: str) -> None:
    with pytest.raises(Problem) as caught:
        load(name).classify(code)
    assert caught.value.what == f"label code {code} has no class"
    for words in (name, *wanted):
        assert words in str(caught.value)
    assert unwanted not in str(caught.value)


def test_the_line_that_an_error_names_mends_it() -> None:
    text = (LABELS / "bigearthnet-43.csv").read_text()
    with pytest.raises(Problem) as caught:
        parse_crosswalk(text, "x.csv").classify('Heath, "wet"')
    found = re.search(r"add the line '(.*)' \(", caught.value.fix)
    assert found
    line = found[1].replace("<name>", "wet heath").replace("<class>", "shrub and scrub")
    assert parse_crosswalk(text + line + "\n", "x.csv").classify('Heath, "wet"') == "shrub and scrub"


def test_compare_lists_each_kind_of_difference_once() -> None:
    text = (
        HEAD
        + "1,a,water,judgement,why\n11,a,water,judgement,\n2,b,crops,published,\n3,c,,judgement,\n4,d,bare,judgement,\n"
    )
    crosswalk = parse_crosswalk(text, "x.csv")
    assert compare(crosswalk, {"a": "trees", "b": "crops", "c": None, "e": "grass"}) == [
        Difference("a", ("1", "11"), "water", "trees", "judgement: why"),
        Difference("d", ("4",), "bare", None, "judgement"),
        Difference("e", (), None, "grass"),
    ]
    assert compare(crosswalk, crosswalk.by_name()) == []


def test_one_name_with_two_classes_cannot_be_compared_by_name() -> None:
    crosswalk = parse_crosswalk(HEAD + "1,a,water,judgement,\n2,a,trees,judgement,\n", "x.csv")
    with pytest.raises(Problem, match="two classes: water and trees"):
        crosswalk.by_name()


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.just(" "), min_size=1).map(str.strip)


@given(st.dictionaries(NAMES.filter(bool), st.sampled_from((*CLASSES, None)), min_size=1))
def test_what_is_written_is_read(mapping: dict[str, str | None]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("code", "name", "class", "status", "note"))
    writer.writerows((code, code, class_ or "", "judgement", "") for code, class_ in mapping.items())
    crosswalk = parse_crosswalk(text.getvalue().encode(), "x.csv")
    assert {code: crosswalk.classify(code) for code in mapping} == mapping
    assert compare(crosswalk, mapping) == []


@given(st.one_of(st.binary(), st.text().map(str.encode), st.text('12abw",;\r\n\0 ').map(lambda t: (HEAD + t).encode())))
def test_whatever_the_bytes_it_is_a_crosswalk_or_a_problem(raw: bytes) -> None:
    found: Crosswalk | Problem
    try:
        found = parse_crosswalk(raw, "x.csv")
    except Problem as problem:
        found = problem
    if isinstance(found, Problem):
        assert "x.csv" in found.where
        assert found.fix
    else:
        assert found.rows


def test_the_command_lists_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    said = run("harmonize")
    assert said.returncode == 0
    lines = [line.split() for line in said.stdout.splitlines()]
    for path in LABELS.glob("*.csv"):
        (line,) = (words for words in lines if words[:1] == [path.stem])
        rows = load(path.stem).rows.values()
        judged = sum(row.status == "judgement" for row in rows)
        unmapped = sum(row.class_ is None for row in rows)
        assert line[1:5] == [str(len(rows)), str(len(rows) - judged), str(judged), str(unmapped)]
    for name, bit in BIT.items():
        assert [str(bit), f"0x{1 << bit:03x}", *name.split()] in lines


def test_the_command_prints_a_crosswalk_and_what_it_leaves_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # no manifests here: those of the checkout
    said = run("harmonize", "io-lulc").stdout
    for row in load("io-lulc").rows.values():
        (line,) = (line for line in said.split("\n\n")[0].splitlines() if line.startswith(f"{row.code} "))
        assert row.name in line
        assert line.endswith(row.note or row.status)
    assert "not labelled): 0 No Data, 10 Clouds\n" in said
    assert "land cover this source cannot say: shrub and scrub\n" in said
    assert f"crises this source cannot say:     {', '.join(CRISES)}\n" in said
    assert "unmapped (the ground there counts as not labelled): none" in run("harmonize", "corine").stdout


def test_a_source_that_goes_by_name_shows_each_name_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    said = run("harmonize", "bigearthnet-19").stdout
    assert said.splitlines()[0].split() == ["code", "class", "status", "note"]
    assert said.count("Permanent crops") == 1


def test_the_command_loads_nothing_heavy() -> None:
    """It answers in a fraction of a second: only what a table needs is imported."""
    look = "import harmonize.__main__, sys; print(sorted({'numpy', 'pydantic', 'rich', 'pipeline'} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == "[]\n"


def test_csv_comes_out_as_it_went_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run("harmonize", "corine", "--csv").stdout == (LABELS / "corine.csv").read_text()


def test_a_path_and_marked_up_names_are_printed_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(HEAD + "1,[red]a[/red],water,judgement,[link=x]\n")
    said = run("harmonize", str(path)).stdout
    assert "[red]a[/red]" in said
    assert "[link=x]" in said


def test_the_command_compares_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    said = run("harmonize", "corine", "--against", "bigearthnet-43", "--csv").stdout
    rows = list(csv.reader(said.splitlines()))[1:]
    assert {row[0] for row in rows} == set(OFFICIAL_ONLY.values())  # those that only the other one has
    assert "say the same of every name" in run("harmonize", "bigearthnet-43", "--against", "bigearthnet-43").stdout


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["corin"], ["no crosswalk 'corin'", "did you mean 'corine'"]),
        (["x/corine.csv"], ["no crosswalk 'x/corine.csv'", "give a path"]),
        (["--csv"], ["no crosswalk is named"]),
        (["corine", "--against", "world-cover"], ["no crosswalk 'world-cover'", "did you mean 'worldcover'"]),
    ],
)
def test_a_wrong_name_is_explained(words: list[str], wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    said = run("harmonize", *words)
    assert said.returncode == 2
    for text in wanted:
        assert text in said.stderr
    assert said.stdout == ""
    assert "Traceback" not in said.stderr


def test_a_folder_and_a_broken_file_are_explained(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert "cannot read this crosswalk" in run("harmonize", str(tmp_path / "folder.csv")).stderr
    (tmp_path / "broken.csv").write_text(HEAD + "1,a,watr,judgement,\n")
    said = run("harmonize", str(tmp_path / "broken.csv"))
    assert said.returncode == 2
    assert "broken.csv, line 2" in said.stderr
