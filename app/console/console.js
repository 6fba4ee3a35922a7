// The console: find titles, build a history by clicking, see what comes next and who answers. Talks to the API only.

const $ = (id) => document.getElementById(id);
const STAGES = ["queue", "encode", "search", "rank"];
const HEALTH_MS = 2000;
const TYPING_MS = 150;
const history = []; // [{item_id, title}], oldest first; the address holds it too, so that a link can be shared
let served = null; // the version that /readyz names
let asked = 0; // only the newest question may show its answer

async function call(method, path, body) {
  const headers = {};
  const key = sessionStorage.getItem("key");
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const answer = await response.json();
  if (response.status === 401) $("key-form").hidden = false;
  if (!response.ok) throw new Error(answer.detail ?? `status ${response.status}`);
  return answer;
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function showItems(list, items, { note, choose, action }) {
  list.replaceChildren(...items.map((item, index) => {
    const line = element("li");
    const button = element("button");
    button.type = "button";
    button.title = `${action}: ${item.item_id}`;
    button.append(element("span", item.title, "title"), element("span", note(item, index), "note"));
    button.addEventListener("click", () => choose(item, index));
    line.append(button);
    return line;
  }));
}

function problem(error) {
  $("problem").textContent = error.message;
  $("problem").hidden = false;
  clearTimeout(problem.timer);
  problem.timer = setTimeout(() => { $("problem").hidden = true; }, 6000);
}

const tried = (work) => async (...given) => {
  try { await work(...given); } catch (error) { problem(error); }
};

const find = tried(async () => {
  const { items } = await call("GET", `/v1/items?limit=50&q=${encodeURIComponent($("query").value)}`);
  showItems($("found"), items, { note: (item) => item.categories.slice(0, 2).join(", "), choose: add, action: "Add" });
});

function add(item) {
  history.push({ item_id: item.item_id, title: item.title });
  recommend();
}

function showHistory() {
  $("history-hint").hidden = history.length > 0;
  showItems($("history"), history, {
    note: () => "remove",
    choose: (_, index) => { history.splice(index, 1); recommend(); },
    action: "Remove",
  });
  $("history").scrollTop = $("history").scrollHeight;
}

const recommend = tried(async () => {
  showHistory();
  const address = new URLSearchParams(history.map((item) => ["item", item.item_id]));
  window.history.replaceState(null, "", address.size ? `#${address}` : location.pathname);
  const question = ++asked;
  const started = performance.now();
  const answer = await call("POST", "/v1/recommend", {
    history: history.map((item) => item.item_id),
    k: Math.min(1000, Math.max(1, Number($("k").value) || 10)),
    exclude_seen: $("seen").checked,
    ...($("version").value ? { version: $("version").value } : {}),
  });
  if (question !== asked) return;
  showAnswer(answer, performance.now() - started);
});

function showAnswer(answer, milliseconds) {
  const why = answer.fallback ? ` Popular items: ${answer.fallback_reason.replaceAll("_", " ")}.` : "";
  const unknown = answer.unknown_items.length ? ` Not known to it: ${answer.unknown_items.slice(0, 5).join(", ")}.` : "";
  $("answered").textContent = `${answer.family}, version ${answer.version} (${answer.label}).${why}${unknown}`;
  const note = (item) => (answer.fallback ? `${item.score} events` : item.score.toPrecision(4));
  showItems($("next"), answer.items, { note, choose: add, action: "Add" });
  $("timings").hidden = answer.fallback !== null;
  const served = answer.timings_ms;
  $("total").textContent = `${milliseconds.toFixed(1)} ms here, ${served.total.toFixed(1)} ms in the service`;
  $("stages").replaceChildren(...STAGES.map((stage) => {
    const row = element("tr");
    const bar = element("meter");
    bar.max = Math.max(served.total, 0.001);
    bar.value = served[stage];
    const cell = element("td");
    cell.append(bar);
    row.append(element("th", stage), element("td", `${served[stage].toFixed(2)} ms`), cell);
    return row;
  }));
}

const loadUser = tried(async (event) => {
  event.preventDefault();
  const { events } = await call("GET", `/v1/history?limit=200&user_id=${encodeURIComponent($("user").value)}`);
  if (!events.length) problem(new Error("nothing is stored of this user"));
  await remember(events.map((one) => one.item_id));
  await recommend();
});

async function remember(ids) {
  const { items } = await call("POST", "/v1/items/lookup", { ids });
  const titles = new Map(items.map((item) => [item.item_id, item.title]));
  history.splice(0, history.length, ...ids.map((id) => ({ item_id: id, title: titles.get(id) ?? id })));
}

async function health() {
  try {
    const ready = await call("GET", "/readyz");
    $("service").textContent = ready.degraded ? `${ready.version} answers, degraded: ${ready.degraded}` : `${ready.version} answers`;
    $("service").className = ready.degraded ? "bad" : "";
    if (served !== ready.version) {
      if (served === null && !history.length) await remember(new URLSearchParams(location.hash.slice(1)).getAll("item"));
      served = ready.version;
      await Promise.all([find(), recommend(), versions()]);
    }
  } catch (error) {
    served = null;
    $("service").textContent = error.message;
    $("service").className = "bad";
  }
  setTimeout(health, HEALTH_MS);
}

// Only an admin key (or a service without keys) may see versions; others have the page without them.
async function versions() {
  let answer;
  try { answer = await call("GET", "/v1/models"); } catch { return; }
  $("versions").hidden = false;
  const { live, previous } = answer.serving ?? {};
  const chosen = $("version").value;
  $("version").replaceChildren(
    new Option("live", ""),
    ...[live, previous].filter(Boolean).map((version) => new Option(version, version)),
  );
  $("version").value = [live, previous].includes(chosen) ? chosen : "";
  $("version-rows").replaceChildren(...answer.models.map((model) => versionRow(model, live)));
}

function versionRow(model, live) {
  const row = element("tr");
  const figures = model.metrics.filter((metric) => metric.name === "ndcg@10").slice(0, 2);
  const said = figures.map((metric) => `${metric.protocol} ${metric.subset} ${metric.name} ${metric.value.toFixed(4)}`);
  const cells = [model.version, model.family, model.items, model.state, model.labels.join(", "), said.join("; ")];
  row.append(...cells.map((text) => element("td", text)));
  row.title = model.reason ?? model.warnings.join(" ");
  const last = element("td");
  if (model.version !== live) {
    const button = element("button", "Make live");
    button.addEventListener("click", tried(async () => {
      button.disabled = true;
      button.textContent = "Loading …";
      try { await call("PUT", "/v1/labels/live?wait=120", { version: model.version }); } finally { await versions(); }
    }));
    last.append(button);
  }
  row.append(last);
  return row;
}

let typing;
$("query").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(find, TYPING_MS); });
$("user-form").addEventListener("submit", loadUser);
$("clear").addEventListener("click", () => { history.length = 0; recommend(); });
for (const id of ["k", "seen", "version"]) $(id).addEventListener("change", recommend);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  $("key-form").hidden = true;
  served = null;
});
health();
