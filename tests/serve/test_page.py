"""The page in a real browser: both rankings, why a document scored, by keyboard alone; and texts that are scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from colbert_rerank.encoder import Encoder
from colbert_rerank.types import Document
from tests.collection import documents, ingested
from tests.serve.browser import browser
from tests.serve.running import Running, running

pytestmark = pytest.mark.browser

SCRIPT = "<script>document.title = 'stolen'</script><img src=x onerror=\"document.title = 'stolen'\">"
QUERY = "what is the sea"
PATIENCE = 30  # seconds
TOKEN = "a-token-for-the-page-of-tests"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("page") / "store"
    bad = [
        Document(f"<b>{SCRIPT}", {"title": SCRIPT, "text": f"the sea {SCRIPT}"}),
        Document("' onclick='x", {"title": "", "text": "what is the sea, and <i>what</i> is not"}),
    ]
    ingested(folder, tiny_encoder, [*documents(40), *bad])
    with running(folder, COLBERT_RERANK_TOKEN=TOKEN) as service:
        yield service


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browser(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


@pytest.fixture
def page(chrome: Chrome, service: Running) -> Chrome:
    chrome.get(f"http://someone:{TOKEN}@{service.host}:{service.port}/ui")
    waited(chrome, "#store option")
    return chrome


def waited(page: Chrome, selector: str) -> Any:
    return WebDriverWait(page, PATIENCE).until(lambda page: page.find_elements(By.CSS_SELECTOR, selector))


def search(page: Chrome) -> None:
    page.switch_to.active_element.send_keys(QUERY, Keys.ENTER)
    waited(page, "#reranked li")


def shown(page: Chrome, selector: str) -> list[str]:
    return [found.text for found in page.find_elements(By.CSS_SELECTOR, selector)]


def test_both_rankings_and_how_far_documents_moved(page: Chrome, service: Running, tmp_path: Path) -> None:
    search(page)
    _, found = service.ask(
        {"query": QUERY, "k": 100, "top_n": 10}, "/v1/stores/real/search", authorization=f"Bearer {TOKEN}"
    )
    for side, selector in (("first_stage", "#first-stage"), ("reranked", "#reranked")):
        expected = sorted((d[side]["rank"], d["id"]) for d in found["documents"] if d[side]["rank"] <= 10)
        ranks = [int(text) for text in shown(page, f"{selector} .rank")]
        assert list(zip(ranks, shown(page, f"{selector} .id"), strict=True)) == expected
    by_id = {d["id"]: d for d in found["documents"]}
    for name, moved in zip(shown(page, "#reranked .id"), shown(page, "#reranked .moved"), strict=True):
        by = by_id[name]["first_stage"]["rank"] - by_id[name]["reranked"]["rank"]
        assert moved == ("=" if not by else f"{'▲' if by > 0 else '▼'} {abs(by)}")
    said = page.find_element(By.ID, "said").text
    assert f"{found['candidates']} candidates" in said
    assert all(f"{stage.replace('_', ' ')} " in said for stage in found["timings_ms"])
    assert page.save_screenshot(str(tmp_path / "page.png"))
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_by_keyboard_alone(page: Chrome, service: Running) -> None:
    search(page)
    keys = page.switch_to.active_element
    for _ in range(30):
        keys.send_keys(Keys.TAB)
        keys = page.switch_to.active_element
        if page.execute_script("return document.activeElement.closest('#reranked') !== null"):
            break
    name = keys.get_attribute("data-id")
    assert name == shown(page, "#reranked .id")[0]
    keys.send_keys(Keys.ENTER)
    waited(page, "#query-tokens button")
    assert page.switch_to.active_element.get_attribute("id") == "why-title", "a reader is led there"
    _, found = service.ask({"query": QUERY, "id": name}, "/v1/stores/real/explain", authorization=f"Bearer {TOKEN}")
    assert page.find_element(By.ID, "why-title").text == f"{name}: {found['score']:.6f}"
    assert len(shown(page, "#document-tokens .token")) == len(found["tokens"])
    page.switch_to.active_element.send_keys(Keys.TAB)
    page.switch_to.active_element.send_keys(Keys.SPACE)
    match = found["matches"][0]
    assert (
        f"“{match['query_token']}” chose “{found['tokens'][match['row']]}”" in page.find_element(By.ID, "why-said").text
    )
    (chosen,) = page.find_elements(By.CSS_SELECTOR, "#document-tokens .chosen")
    assert (chosen.get_attribute("title") or "").startswith(f"row {match['row']},")


def test_texts_stay_texts(page: Chrome) -> None:
    search(page)
    ids = shown(page, "#first-stage .id") + shown(page, "#reranked .id")
    assert f"<b>{SCRIPT}" in ids
    for button in page.find_elements(By.CSS_SELECTOR, "#first-stage button"):
        if SCRIPT in button.text:
            button.click()
            break
    waited(page, "#document-tokens .token")
    assert page.title == "colbert-rerank"
    assert not page.find_elements(By.CSS_SELECTOR, "main script, main img, main b, main i, #why script, #why img")
    refused = [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
    assert not refused, "nothing was asked of elsewhere, and no policy had to step in"


def test_what_fails_is_said(page: Chrome) -> None:
    page.execute_script("document.getElementById('k').value = '5000'")
    page.execute_script("document.getElementById('k').max = '9999'")
    page.switch_to.active_element.send_keys(QUERY, Keys.ENTER)
    WebDriverWait(page, PATIENCE).until(lambda page: page.find_element(By.ID, "said").text.startswith("k: "))


def test_it_is_closed_to_strangers(service: Running) -> None:
    for path in ("/ui", "/ui/page.js", "/ui/page.css", "/v1/stores/real/search", "/v1/stores/real/explain"):
        assert service.ask({}, path)[0] == 401


def test_nothing_in_it_comes_from_elsewhere() -> None:
    folder = Path(__file__).parents[2] / "colbert_rerank/serve/page"
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8")
        assert "http:" not in text
        assert "https:" not in text
        assert "innerHTML" not in text
    assert json.dumps(sorted(f.name for f in folder.iterdir())) == '["page.css", "page.html", "page.js"]'
