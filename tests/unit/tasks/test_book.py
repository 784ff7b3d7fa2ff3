"""Books of prompts: what is written is read back, ids are unique, no training prompt is held out; what is kept."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darts_async.tasks import book_cache
from darts_async.tasks.bad_rows import BadRows
from darts_async.tasks.book import Book, BookPrompts
from darts_async.tasks.book_cache import open_book
from darts_async.tasks.book_writer import BookWriter
from darts_async.tasks.columns import Item


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "darts-async" / "prompts"


def write(folder: Path, items: list[tuple[Item, bool]], fraction: float = 0.0) -> BadRows:
    bad = BadRows()
    with BookWriter(folder) as writer:
        for place, (item, held_out) in enumerate(items):
            writer.add(item, held_out=held_out, source=0, place=place)
        writer.finish(lambda _, place: f"row {place}", bad, fraction)
    return bad


def made(items: list[tuple[Item, bool]], fraction: float = 0.0) -> Book:
    return open_book(None, [], lambda folder: write(folder, items, fraction) and None)


items = st.builds(
    Item,
    content=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=6),
    answer=st.sampled_from("ab"),
    name=st.sampled_from(["", "", "x", "y/z", "p-0123456789abcdef"]),
    stratum=st.sampled_from(["easy", "hard"]),
    before=st.sampled_from([(), (("system", "S"),)]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(items, st.booleans()), max_size=12).map(lambda rows: sorted(rows, key=lambda r: not r[1])))
def test_every_prompt_is_found_by_its_id_and_none_is_in_both_sets(rows: list[tuple[Item, bool]]) -> None:
    book = made(rows)
    train, held_out = book.prompts(held_out=False), book.prompts(held_out=True)
    ids = [prompt.prompt_id for prompt in (*train, *held_out)]
    assert len(set(ids)) == len(ids) == len(book)
    assert all("/" not in prompt_id for prompt_id in ids)
    for prompts in (train, held_out):
        for index, prompt in enumerate(prompts):
            assert book.prompt(book.number_of(prompt.prompt_id)) == prompt
            assert prompts.key(index) == (prompt.prompt_id, prompt.stratum)
    # Whatever is left out has a twin that stays: the same text, or the same id.
    texts = {(prompt.before, prompt.content) for prompt in (*train, *held_out)}
    named = {item.name for item, _ in rows if item.name}
    assert all((item.before, item.content) in texts or item.name in named for item, _ in rows)


def test_ids_follow_from_the_text_alone() -> None:
    one = made([(Item("question", "1", stratum="easy"), False), (Item("other", "2"), False)])
    two = made([(Item("another", "3"), False), (Item("question", "9"), True)])
    assert one.prompt(0).prompt_id == two.prompt(1).prompt_id == "p-4f0228816dce45ff"
    with_system = made([(Item("question", "1", before=(("system", "S"),)), False)])
    assert with_system.prompt(0).prompt_id != one.prompt(0).prompt_id


def test_what_comes_twice_is_told() -> None:
    rows = [(Item("h", "1"), True), (Item("a", "1"), False), (Item("a", "2"), False), (Item("h", "1"), False)]
    rows += [(Item("b", "1", name="n"), False), (Item("c", "1", name="n"), False)]
    book = made(rows)
    assert book.info.notes == (
        "1 of 0 rows cannot be used: row 5: its id was used before, for another prompt",
        "2 prompts came before and count once: row 2 (first: row 1); row 3 (first: row 0)",
        "1 of them have another answer than the first: row 2 (first: row 1)",
        "1 of them are in the held-out set, and not trained on",
    )
    assert [prompt.content for prompt in book.prompts(held_out=False)] == ["a", "b"]


def test_what_is_held_out_depends_on_the_prompt_not_on_its_neighbours() -> None:
    rows = [(Item(f"question {i}", "1"), False) for i in range(2000)]
    held_out = {prompt.content for prompt in made(rows, 0.1).prompts(held_out=True)}
    assert 150 < len(held_out) < 250
    half = {prompt.content for prompt in made(rows[::2], 0.1).prompts(held_out=True)}
    assert half == held_out & {item.content for item, _ in rows[::2]}


@pytest.mark.parametrize("fraction", [1e-9, 0.999999])
def test_neither_set_is_ever_empty(fraction: float) -> None:
    book = made([(Item(text, "1"), False) for text in "abcd"], fraction)
    assert len(book.prompts(held_out=True)) in (1, 3)


def test_a_book_that_took_time_is_kept_and_found_until_its_file_changes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_cache, "KEEP_FROM_S", 0.1)
    data = tmp_path / "data"
    data.write_text("one")
    calls = []

    def slow(folder: Path) -> None:
        calls.append(folder)
        write(folder, [(Item("a", "1"), False)])
        time.sleep(book_cache.KEEP_FROM_S)

    def quick(folder: Path) -> None:
        calls.append(folder)
        write(folder, [(Item("b", "1"), False)])

    for _ in range(2):
        assert open_book({"key": 1}, [data], slow).prompt(0).content == "a"
    assert len(calls) == 1 and len(list(cache.iterdir())) == 1
    for _ in range(2):
        assert open_book({"key": 2}, [data], quick).prompt(0).content == "b"
    assert len(calls) == 3
    data.write_text("three")
    assert open_book({"key": 1}, [data], slow).prompt(0).content == "a"
    assert len(calls) == 4 and len(list(cache.iterdir())) == 2


def test_a_damaged_book_is_made_anew_and_old_ones_make_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(folder: Path) -> None:
        write(folder, [(Item("a", "1"), False)])

    open_book({"key": 1}, [], make, keep=True)
    (folder,) = cache.iterdir()
    (folder / "index.npy").write_bytes(b"junk")
    assert len(open_book({"key": 1}, [], make, keep=True)) == 1
    assert Book(folder).prompt(0).content == "a"
    monkeypatch.setattr(book_cache, "MAX_KEPT", 2)
    for key in (2, 3, 4):
        open_book({"key": key}, [], make, keep=True)
    assert len(list(cache.iterdir())) == 2


def test_without_a_folder_to_keep_books_they_are_made_all_the_same(cache: Path, tmp_path: Path) -> None:
    cache.parent.parent.joinpath("darts-async").write_text("a file in the way")
    book = open_book({"key": 1}, [], lambda folder: write(folder, [(Item("a", "1"), False)]) and None, keep=True)
    assert book.prompt(0).content == "a" and not book.folder.exists()


def test_lengths_are_remembered_with_the_book(cache: Path) -> None:
    def make(folder: Path) -> None:
        write(folder, [(Item("a", "1"), False), (Item("b", "1"), False)])

    numbers = np.array([3, 4], np.int32)
    book = open_book({"key": 1}, [], make, keep=True)
    assert book.remembered("lengths", lambda: numbers).tolist() == [3, 4]
    again = open_book({"key": 1}, [], make, keep=True)
    assert again.remembered("lengths", lambda: numbers * 0).tolist() == [3, 4]


def test_slices_of_prompts_are_prompts() -> None:
    prompts = made([(Item(text, "1"), False) for text in "abc"]).prompts(held_out=False)
    some = prompts[1:]
    assert isinstance(some, BookPrompts) and [prompt.content for prompt in some] == ["b", "c"]
    assert prompts[-1].content == "c"


def test_of_two_processes_that_make_a_book_at_once_the_first_ones_counts(cache: Path) -> None:
    def make(text: str, folder: Path) -> None:
        write(folder, [(Item(text, "1"), False)])

    def late(folder: Path) -> None:
        open_book({"key": 1}, [], lambda other: make("first", other), keep=True)
        make("late", folder)

    assert open_book({"key": 1}, [], late, keep=True).prompt(0).content == "first"
    assert [folder.name.startswith("making-") for folder in cache.iterdir()] == [False]
