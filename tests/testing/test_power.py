"""The power of the shipped machine: planted bugs are found, and what is printed of them is of use.

By default each bug is searched once, from one seed. ``TRIOLOOP_LONG=1`` searches and shrinks them
all, and compares what is printed with the snapshots; ``nox -s power`` does so after it has measured
the table of the docs. When Hypothesis shrinks otherwise, or the machine has changed:
``python tests/support/power.py --snapshots``, and read what has become of them.
"""

from __future__ import annotations

import os
import re

import pytest
from support import power
from support.mutants import MUTANTS, Mutant, bug

from trioloop._core._machine import Machine
from trioloop.testing import LawBroken
from trioloop.testing._machine import Report

LONG = bool(os.environ.get("TRIOLOOP_LONG"))
BRIEF = ("idle timer not reset by a message", "dead letters dropped", "disconnect not noticed")
"""Bugs that are shrunk in every run."""

each_bug = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.slug)
each_shrunk_bug = pytest.mark.parametrize(
    "mutant",
    [mutant for mutant in MUTANTS if LONG or mutant.name in BRIEF],
    ids=lambda mutant: mutant.slug,
)


# -- found -----------------------------------------------------------------------------------------


@each_bug
def test_a_planted_bug_is_found(mutant):
    found = power.find(mutant)
    assert mutant.calls, f"{mutant.function} is not called any more: plant this bug elsewhere"
    assert found.violation is not None, found
    assert found.violation.law in mutant.laws


def test_a_bug_is_planted_for_the_length_of_a_block():
    original = Machine.note_silence
    with MUTANTS[0].planted():
        assert Machine.note_silence is not original
    assert Machine.note_silence is original


def test_a_bug_in_a_function_that_is_gone_is_an_error():
    mutant = Mutant("", Machine, "no_such_function", len, object, frozenset())
    gone = pytest.raises(LookupError, match="Machine has no no_such_function of its own any more")
    with gone, mutant.planted():
        pass


def test_bugs_have_names_of_their_own():
    assert len({mutant.slug for mutant in MUTANTS}) == len(MUTANTS) >= 15
    assert bug.__name__ == "bug"


# -- the table -------------------------------------------------------------------------------------


def lines_of_the_table():
    rows = re.findall(
        r"^\| (.+) \| ([\d, ]+) \| ([\d.]+) \| ", power.TABLE.read_text(), re.MULTILINE
    )
    return {name: (laws, float(median)) for name, laws, median in rows}


def test_the_table_of_the_docs_has_every_planted_bug():
    assert set(lines_of_the_table()) == {mutant.name for mutant in MUTANTS}


def test_the_table_of_the_docs_says_that_each_is_found_and_ten_of_them_quickly():
    medians = [median for _, median in lines_of_the_table().values()]
    assert max(medians) <= power.LIMIT
    assert sum(median <= power.QUICK for median in medians) >= power.MANY


def test_the_table_of_the_docs_tells_only_laws_that_the_bug_breaks():
    told = lines_of_the_table()
    for mutant in MUTANTS:
        assert set(map(int, told[mutant.name][0].split(", "))) <= mutant.laws, mutant.name


# -- what is printed -------------------------------------------------------------------------------


def test_in_every_snapshot():
    assert {path.name for path in power.SNAPSHOTS.iterdir()} == {
        power.snapshot_of(mutant).name for mutant in MUTANTS
    }


@each_bug
def test_the_printed_test_breaks_the_same_law_in_the_same_way(mutant):
    printed = power.snapshot_of(mutant).read_text(encoding="utf-8")
    with mutant.planted(), pytest.raises(LawBroken) as found:
        run_pasted(printed)
    machine = machine_in(found.value)
    assert printed.startswith(f"trioloop.testing.LawBroken: {found.value}\n")
    assert printed.rstrip("\n").endswith(str(Report(machine)))


def run_pasted(printed):
    """Do with the printed test what a user does: paste it, and run it."""
    source = printed.partition("\nschedule: ")[2].partition("\n\n")[2]
    module = {}
    exec(compile(source, "<pasted>", "exec"), module)
    module["test_found_by_" + re.search(r"def test_found_by_(\w+)", source)[1]]()


def machine_in(error):
    traceback = error.__traceback__
    while "machine" not in traceback.tb_frame.f_locals:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_locals["machine"]


@each_bug
def test_the_printed_test_passes_without_the_bug(mutant):
    run_pasted(power.snapshot_of(mutant).read_text(encoding="utf-8"))


@each_shrunk_bug
def test_what_is_printed_is_what_was_kept(mutant):
    found = power.find(mutant, shrink=True)
    kept = power.snapshot_of(mutant).read_text(encoding="utf-8")
    if LONG:
        assert found.printed == kept
    else:  # another release of Hypothesis may take another way to something as small
        assert found.violation.law in mutant.laws
        assert len(steps_in(found.printed)) <= len(steps_in(kept)) + 2
    with mutant.planted(), pytest.raises(LawBroken) as again:
        run_pasted(found.printed)
    assert again.value.violation.law == found.violation.law


def steps_in(printed):
    return re.findall(r"^state\.\w+\(", printed, re.MULTILINE)


@each_bug
def test_a_snapshot_is_short_and_has_no_traceback(mutant):
    printed = power.snapshot_of(mutant).read_text(encoding="utf-8")
    assert "Traceback" not in printed
    assert len(steps_in(printed)) <= 12
