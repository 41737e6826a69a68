"use strict";
// The page's own script: search, sort, choose; curves, differences and pictures of the chosen; news as they come.
// What is chosen stands in the address behind #, so that it outlives a reload.

const at = (id) => document.getElementById(id);
const most = Number(document.body.dataset.most);
const body = at("runs").tBodies[0];
const dark = matchMedia("(prefers-color-scheme: dark)");
const asked = new URLSearchParams(location.hash.slice(1));
const state = {
  chosen: new Set(asked.getAll("run")), metric: asked.get("metric"), axis: asked.get("axis") || "epochs",
  column: -1, down: false,
};

// ------------------------------------------------------------------------------------------- the table

const words = (row) => (row.words ??= row.textContent.toLowerCase());

function search() {
  const wanted = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of body.rows) row.hidden = !wanted.every((word) => words(row).includes(word));
  count();
}

function count() {
  const shown = [...body.rows].filter((row) => !row.hidden).length;
  at("count").textContent = `${shown} of ${body.rows.length} shown, ${state.chosen.size} chosen`;
}

function compare(one, other) {
  const [a, b] = [one, other].map((row) => {
    const cell = row.cells[state.column];
    return cell.dataset.sort ?? cell.textContent.trim();
  });
  if (!a || !b) return a ? -1 : b ? 1 : 0; // without a value: last, either way
  const [x, y] = [Number(a), Number(b)];
  const order = isNaN(x) || isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
  return state.down ? -order : order;
}

function sort() {
  if (state.column < 0) return;
  for (const [i, head] of [...at("runs").tHead.rows[0].cells].entries())
    head.ariaSort = i !== state.column ? "none" : state.down ? "descending" : "ascending";
  const focused = document.activeElement;
  body.append(...[...body.rows].sort(compare));
  if (body.contains(focused)) focused.focus();
}

for (const [i, head] of [...at("runs").tHead.rows[0].cells].entries())
  head.firstElementChild.addEventListener("click", () => {
    state.down = state.column === i && !state.down;
    state.column = i;
    sort();
  });

// ------------------------------------------------------------------------------------------ the chosen

function choose() {
  for (const box of body.querySelectorAll("input")) box.checked = state.chosen.has(box.value);
  count();
  remember();
  show();
}

function remember() {
  const told = new URLSearchParams([...state.chosen].map((run) => ["run", run]));
  if (state.metric) told.set("metric", state.metric);
  if (state.axis !== "epochs") told.set("axis", state.axis);
  history.replaceState(null, "", `#${told}`);
}

const query = (more = {}) =>
  new URLSearchParams([...[...state.chosen].slice(0, most + 1).map((run) => ["run", run]), ...Object.entries(more)]);

let asking = 0; // a later question makes an earlier one's answer stale

async function show() {
  at("chosen").hidden = !state.chosen.size;
  const mine = ++asking;
  if (!state.chosen.size) return at("details").replaceChildren();
  const answer = await fetch(`chosen?${query()}`);
  const text = await answer.text();
  if (mine !== asking || !answer.ok) return;
  const old = at("epoch")?.value;
  const height = at("details").offsetHeight; // the page does not jump while the curves are drawn
  at("details").style.minHeight = `${height}px`;
  at("details").innerHTML = text;
  if (old && at("epoch")) at("epoch").value = old;
  connect();
  await draw();
  at("details").style.minHeight = "";
}

function connect() {
  if (at("metric")) {
    const names = [...at("metric").options].map((option) => option.value);
    if (names.includes(state.metric)) at("metric").value = state.metric;
    at("axis").value = state.axis;
    for (const name of ["metric", "axis"])
      at(name).addEventListener("change", () => {
        state[name] = at(name).value;
        remember();
        draw();
      });
  }
  if (!at("epoch")) return;
  at("epoch").addEventListener("input", turn);
  at("before").addEventListener("click", () => { at("epoch").stepDown(); turn(); });
  at("after").addEventListener("click", () => { at("epoch").stepUp(); turn(); });
  turn();
}

function turn() {
  const epoch = Number(at("epoch").dataset.epochs.split(" ")[at("epoch").value]);
  at("at").textContent = epoch;
  at("epoch").ariaValueText = `epoch ${epoch}`;
  for (const figure of document.querySelectorAll("figure[data-links]")) {
    const links = JSON.parse(figure.dataset.links);
    const there = Object.keys(links).map(Number).filter((one) => one <= epoch).pop() ?? Math.min(...Object.keys(links));
    figure.querySelector("a").href = figure.querySelector("img").src = `files/${links[there]}`;
    figure.querySelector("span").textContent = there;
  }
}

let drawing = 0;

async function draw() {
  if (!at("metric")) return;
  const mine = ++drawing;
  const metric = at("metric").value;
  const answer = await fetch(`curves?${query({ metric, axis: state.axis, scheme: dark.matches ? "dark" : "light" })}`);
  if (!answer.ok) return;
  const item = await answer.json();
  if (mine !== drawing) return;
  const place = at("curves");
  place.ariaLabel = `${metric} of ${state.chosen.size} runs over ${state.axis}`;
  for (const old of Bokeh.documents.splice(0)) old.clear();
  place.replaceChildren();
  await Bokeh.embed.embed_item(item, place);
}

// --------------------------------------------------------------------------------------------- the news

function renew(run, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  const fresh = template.content.firstElementChild;
  const old = [...body.rows].find((row) => row.dataset.run === run);
  if (!old) return body.prepend(fresh);
  old.className = fresh.className;
  old.words = undefined;
  [...old.cells].slice(1).forEach((cell) => cell.remove()); // the box stays: it may have the focus
  old.append(...[...fresh.cells].slice(1));
}

function hear({ data }) {
  const news = JSON.parse(data);
  for (const [run, html] of Object.entries(news.rows).reverse()) renew(run, html);
  for (const run of news.gone) [...body.rows].find((row) => row.dataset.run === run)?.remove();
  at("summary").textContent = news.summary;
  if (news.comparisons !== null) at("comparisons").innerHTML = news.comparisons;
  sort();
  search();
  for (const box of body.querySelectorAll("input")) box.checked = state.chosen.has(box.value);
  if (![...Object.keys(news.rows)].some((run) => state.chosen.has(run))) return;
  if (at("details").contains(document.activeElement) && at("metric")) draw(); // under somebody's hands: the curves alone
  else show();
}

const events = new EventSource(`events?since=${document.body.dataset.version}`);
events.addEventListener("message", hear);
events.addEventListener("open", () => (at("lost").textContent = ""));
events.addEventListener("error", () => (at("lost").textContent = "The board has been stopped, or cannot be reached."));

at("search").addEventListener("input", search);
at("none").addEventListener("click", () => { state.chosen.clear(); choose(); });
at("shown").addEventListener("click", () => {
  for (const row of body.rows) if (!row.hidden) state.chosen.add(row.dataset.run);
  choose();
});
body.addEventListener("change", ({ target }) => {
  state.chosen[target.checked ? "add" : "delete"](target.value);
  choose();
});
dark.addEventListener("change", draw);
addEventListener("DOMContentLoaded", choose);
