"use strict";
// Texts of documents are only ever put into the page as text.

const byId = (id) => document.getElementById(id);

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function ask(path, body) {
  const answer = await fetch(location.origin + path, body && {  // without a user and password, which are refused there
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

async function stores() {
  for (const { name, documents } of (await ask("/v1/stores")).stores) {
    const option = element("option", "", `${name} (${documents.toLocaleString()})`);
    option.value = name;
    byId("store").append(option);
  }
}

function moved(from, to) {
  if (from === to) return element("span", "moved", "=");
  const up = to < from, by = Math.abs(from - to);
  const shown = element("span", `moved ${up ? "up" : "down"}`, `${up ? "▲" : "▼"} ${by}`);
  shown.setAttribute("aria-label", `moved ${up ? "up" : "down"} by ${by}`);
  return shown;
}

function entry(query, store, doc, side) {
  const button = element("button");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  button.dataset.id = doc.id;
  button.append(element("span", "rank", String(doc[side].rank)), element("span", "id", doc.id));
  if (side === "reranked") button.append(moved(doc.first_stage.rank, doc.reranked.rank));
  const scored = side === "first_stage" || doc.reranked.source !== "first_stage";
  button.append(element("span", "score", scored ? doc[side].score.toFixed(side === "reranked" ? 6 : 3) : "no vectors"));
  button.append(element("span", "text", doc.text ?? ""));
  button.addEventListener("click", () => guarded(() => why(query, store, doc)));
  const item = element("li");
  item.append(button);
  return item;
}

async function search() {
  const query = byId("query").value, store = byId("store").value, top = 10;
  byId("said").textContent = "searching …";
  byId("why").hidden = true;
  const found = await ask(`/v1/stores/${encodeURIComponent(store)}/search`, { query, k: Number(byId("k").value), top_n: top });
  for (const [side, list] of [["first_stage", "first-stage"], ["reranked", "reranked"]]) {
    const shown = found.documents.filter((doc) => doc[side].rank <= top).sort((a, b) => a[side].rank - b[side].rank);
    byId(list).replaceChildren(...shown.map((doc) => entry(query, store, doc, side)));
  }
  const times = Object.entries(found.timings_ms).map(([stage, ms]) => `${stage.replaceAll("_", " ")} ${ms.toFixed(1)} ms`);
  const status = found.status === "ok" ? "" : `${found.status}: ${found.reason}. `;
  byId("said").textContent = `${status}${found.candidates} candidates, ${found.model}; ${times.join(", ")}`;
}

async function why(query, store, doc) {
  const found = await ask(`/v1/stores/${encodeURIComponent(store)}/explain`, { query, id: doc.id });
  for (const button of document.querySelectorAll("li > button")) {
    button.setAttribute("aria-pressed", String(button.dataset.id === doc.id));
  }
  byId("why").hidden = false;
  byId("why-title").textContent = `${doc.id}: ${found.score.toFixed(6)}`;
  byId("why-said").textContent = found.why_not ? `Its tokens cannot be told: ${found.why_not}.` : "";
  const shares = new Map(), total = found.matches.reduce((sum, match) => sum + match.similarity, 0);
  for (const match of found.matches) shares.set(match.row, (shares.get(match.row) ?? 0) + match.similarity / total);
  const most = Math.max(...shares.values());
  const tokens = (found.tokens ?? []).map((text, row) => {
    const glued = text.startsWith("##");
    const share = shares.get(row) ?? 0;
    const token = element("span", `token h${share > 0 ? Math.ceil(5 * share / most) : 0}`, glued ? text.slice(2) : text);
    token.title = `row ${row}, ${(100 * share).toFixed(1)} % of the score`;
    return [glued ? "" : " ", token];
  });
  byId("document-tokens").replaceChildren(...tokens.flat());
  byId("query-tokens").replaceChildren(...found.matches.map((match) => {
    const button = element("button", "", match.query_token);
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.append(element("small", "", `${(100 * match.similarity / total).toFixed(1)} %`));
    button.addEventListener("click", () => {
      for (const other of byId("query-tokens").children) other.setAttribute("aria-pressed", String(other === button));
      tokens.forEach(([, token], row) => token.classList.toggle("chosen", row === match.row));
      const chose = found.tokens ? `“${found.tokens[match.row]}”` : "a vector";
      byId("why-said").textContent = `“${match.query_token}” chose ${chose} (row ${match.row}), similarity ${match.similarity.toFixed(6)}`;
    });
    return button;
  }));
  byId("why-title").focus();
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    byId("said").textContent = error.message;
  }
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  guarded(search);
});
guarded(stores);
