"""TREC qrels: graded relevance as trec_eval reads it. Pieces of text to write one after the other; no file is opened.

A line is `<query id> 0 <chip_id> <grade>`. trec_eval takes an image that has no line for irrelevant, and one with a
negative grade too, so unjudged images have none (measured with pytrec_eval: a line with -1 or -2 changes nothing).
Two ways to the right numbers:

- relevant images alone (grade >= 1, much the smaller file): a ranking must leave out a query's unjudged images itself,
  as model.trec of an evaluation does;
- `zeros` as well: with `trec_eval -J` (pytrec_eval: judged_docs_only_flag=True) any ranking can be measured, since
  unjudged images are then dropped from it. Without zeros -J would drop the irrelevant ones too: never do that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import compress

import numpy as np

from harmonize.problem import Problem
from harmonize.queries import DistinctLabels, Query


def qrels(queries: Iterable[Query], chip_ids: np.ndarray, labels: DistinctLabels, zeros: bool) -> Iterator[bytes]:
    """The qrels of a corpus, query by query and grade by grade (highest first), within one by chip_id.

    chip_ids: (N,) of the images of `labels`, in any order: the text is the same. At no time is more than one grade of
    one query in memory. Raises Problem for a chip_id with white space.
    """
    names = [str(c).encode() for c in chip_ids]
    if len(b" ".join(names).split()) != len(names):
        raise Problem("a chip_id has white space: TREC files cannot hold it", fix="import the dataset with other ids")
    order = np.argsort(np.array(names)) if names else np.zeros(0, np.int64)
    ordered, place = [names[k] for k in order], labels.place[order]
    for query in queries:
        grades = labels.grades(query)
        for grade in range(query.full, -1 if zeros else 0, -1):
            chosen = compress(ordered, (grades == grade)[place])
            before, after = f"{query.id} 0 ".encode(), f" {grade}\n".encode()
            text = (after + before).join(chosen)
            if text:
                yield before + text + after
