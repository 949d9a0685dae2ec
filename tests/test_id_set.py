from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from colbert_rerank.id_set import IdSet


@given(st.lists(st.text(st.characters())))
def test_it_answers_as_a_python_set_does(keys: list[str]) -> None:
    ours, reference = IdSet(), set[str]()
    for key in keys:
        assert ours.add(key) == (key not in reference)
        reference.add(key)
    assert len(ours) == len(reference)


def test_half_a_million_ids_survive_the_growth_of_the_table_in_at_most_36_bytes_each() -> None:
    count = 500_000
    ids = IdSet()
    tracemalloc.start()
    try:
        assert all(ids.add(f"WIKI-{i}") for i in range(count))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ids) == count
    assert not any(ids.add(f"WIKI-{i}") for i in range(0, count, 7))
    assert peak <= 36 * count, f"{peak / count:.1f} bytes an id"
