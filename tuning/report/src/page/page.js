"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
if (data.packed) {
  const { prefix, words, rows } = data.packed;
  data.rows = rows.map(row => {
    const [name, state, ...cells] = row.split("\t");
    return [prefix + name, words[state], ...cells];
  });
}
const tip = document.getElementById("tip");
const all = [...document.querySelectorAll("svg[data-plot]")];
let selected = null;

// What is known of a trial, beside the place that was pointed at.
function show(trial, x, y) {
  const row = data.rows[trial];
  tip.replaceChildren();
  const name = document.createElement("b");
  name.textContent = row[0];
  const table = document.createElement("table");
  const put = (key, value) => {
    if (value === "") return;
    const line = table.insertRow();
    line.insertCell().textContent = key;
    line.insertCell().textContent = value;
  };
  data.columns.forEach((column, n) => n > 0 && put(column, row[n]));
  put("reason", data.reasons[trial] ?? "");
  tip.append(name, table);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = Math.max(4, Math.min(y + 14, innerHeight - box.height - 4)) + "px";
}
function select(trial) {
  if (selected === trial) return;
  document.querySelectorAll(".sel").forEach(e => e.classList.remove("sel"));
  selected = trial;
  if (trial === null) return;
  document.querySelectorAll(`[data-t="${trial}"],tr[data-row="${trial}"]`).forEach(e => e.classList.add("sel"));
}
function leave() { tip.hidden = true; select(null); }

// The mark at a place: the line that is hit, or the nearest dot within some pixels.
const dots = new Map();
function dotsOf(svg) {
  if (!dots.has(svg)) dots.set(svg, [...svg.querySelectorAll("circle[data-t]")].map(e =>
    ({trial: +e.dataset.t, x: +e.getAttribute("cx"), y: +e.getAttribute("cy")})));
  return dots.get(svg);
}
function at(svg, event) {
  const line = event.target.closest("path[data-t]");
  if (line) return +line.dataset.t;
  const matrix = svg.getScreenCTM();
  if (!matrix) return null;
  const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
  let best = null, least = 14 * 14;
  for (const dot of dotsOf(svg)) {
    const d = (dot.x - p.x) ** 2 + (dot.y - p.y) ** 2;
    if (d < least) { least = d; best = dot.trial; }
  }
  return best;
}
for (const svg of all) {
  svg.addEventListener("pointermove", event => {
    const trial = at(svg, event);
    if (trial === null) return leave();
    select(trial);
    show(trial, event.clientX, event.clientY);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("click", event => {
    const trial = at(svg, event);
    if (trial !== null) find(trial);
  });
  // Arrows walk through the trials of a plot, Home and End go to the best and the worst, Enter to the table.
  svg.addEventListener("keydown", event => {
    const trials = [...new Set([...svg.querySelectorAll("[data-t]")].map(e => +e.dataset.t))].sort((a, b) => a - b);
    if (!trials.length) return;
    const now = trials.indexOf(selected);
    const byRank = trials.filter(t => data.ranks[t] !== null).sort((a, b) => data.ranks[a] - data.ranks[b]);
    const next = {
      ArrowRight: trials[(now + 1) % trials.length], ArrowLeft: trials[(now - 1 + trials.length) % trials.length],
      Home: byRank[0], End: byRank[byRank.length - 1],
    }[event.key];
    if (event.key === "Escape") return leave();
    if (event.key === "Enter" && selected !== null) return find(selected);
    if (next === undefined) return;
    event.preventDefault();
    select(next);
    const box = svg.querySelector(`[data-t="${next}"]`).getBoundingClientRect();
    show(next, box.right, box.bottom);
  });
}

// Parallel coordinates: the best in colour, and marks on axes.
const share = document.getElementById("share");
const clear = document.getElementById("clear");
const ranked = data.ranks.filter(r => r !== null).length;
const parallel = all.filter(svg => svg.dataset.plot === "parallel");
const brushes = new Map(parallel.map(svg => [svg, new Map()]));
function colour() {
  const best = Math.max(1, Math.ceil(ranked * share.value / 100));
  share.parentElement.querySelector("output").textContent = share.value + " %";
  for (const svg of parallel) {
    const marks = brushes.get(svg);
    for (const line of svg.querySelectorAll("path[data-t]")) {
      const rank = data.ranks[line.dataset.t];
      const chosen = line.classList.contains("sel") ? " sel" : "";
      let name = rank === 0 ? "one" : rank < best ? "h" : "l";
      if (marks.size) {
        const points = line.getAttribute("d").slice(1).split("L").map(p => p.split(" ").map(Number));
        const inside = ([x, [from, to]]) => points.some(p => Math.abs(p[0] - x) < 1 && p[1] >= from && p[1] <= to);
        name = [...marks].every(inside) ? (rank === 0 ? "one" : "h") : "l off";
      }
      line.setAttribute("class", name + chosen);
    }
  }
  clear.hidden = ![...brushes.values()].some(m => m.size);
}
if (share) {
  share.addEventListener("input", colour);
  clear.addEventListener("click", () => {
    brushes.forEach(m => m.clear());
    document.querySelectorAll(".brush").forEach(e => e.remove());
    colour();
  });
}
for (const axis of document.querySelectorAll("[data-axis]")) {
  const svg = axis.ownerSVGElement;
  const x = +axis.getAttribute("x") + 8;
  const place = event => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse()).y;
  axis.addEventListener("pointerdown", event => {
    axis.setPointerCapture(event.pointerId);
    const start = place(event);
    svg.querySelector(`.brush[data-x="${x}"]`)?.remove();
    brushes.get(svg).delete(x);
    const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    box.setAttribute("class", "brush");
    box.dataset.x = x;
    const move = event => {
      const [from, to] = [start, place(event)].sort((a, b) => a - b);
      if (to - from < 3) return;
      for (const [k, v] of Object.entries({x: x - 6, y: from, width: 12, height: to - from})) box.setAttribute(k, v);
      if (!box.parentNode) svg.append(box);
      brushes.get(svg).set(x, [from, to]);
      colour();
    };
    axis.addEventListener("pointermove", move);
    axis.addEventListener("pointerup", () => { axis.removeEventListener("pointermove", move); colour(); }, {once: true});
    event.preventDefault();
  });
}

// The table: pages of what is found, in the order of a column.
const PAGE = 100;
const body = document.getElementById("rows");
const pages = document.getElementById("pages");
const search = document.getElementById("find");
let column = null, down = false, page = 0;
const byRank = (a, b) => (data.ranks[a] ?? Infinity) - (data.ranks[b] ?? Infinity) || a - b;
function order(a, b) {
  const [p, q] = [data.rows[a][column], data.rows[b][column]];
  if (p === "" || q === "") return (p === "") - (q === "") || a - b; // those without a value stay last
  const [x, y] = [Number(p), Number(q)];
  const by = Number.isNaN(x) || Number.isNaN(y) ? p.localeCompare(q, undefined, {numeric: true}) : x - y;
  return (down ? -by : by) || a - b;
}
function rows() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = data.rows.map((_, n) => n).filter(n => {
    const text = data.rows[n].join(" ").toLowerCase();
    return words.every(w => text.includes(w));
  });
  return found.sort(column === null ? byRank : order);
}
function draw() {
  const found = rows();
  const count = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.min(page, count - 1);
  body.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(n => {
    const line = document.createElement("tr");
    line.dataset.row = n;
    for (const cell of data.rows[n]) {
      const place = line.insertCell();
      place.textContent = cell;
      if (cell.length > 40) place.title = cell;
    }
    const code = document.createElement("code");
    code.textContent = data.log[0] + data.rows[n][0] + data.log[1];
    line.insertCell().append(code);
    line.addEventListener("pointerenter", () => select(n));
    line.addEventListener("pointerleave", () => select(null));
    return line;
  }));
  document.getElementById("count").textContent =
    found.length === data.rows.length ? `${found.length} trials` : `${found.length} of ${data.rows.length} trials`;
  pages.replaceChildren();
  if (count > 1) {
    const step = (words, to) => {
      const button = document.createElement("button");
      button.type = "button"; button.textContent = words; button.disabled = to < 0 || to >= count;
      button.addEventListener("click", () => { page = to; draw(); });
      return button;
    };
    pages.append(step("Previous", page - 1), `${page + 1} of ${count}`, step("Next", page + 1));
  }
}
function find(trial) {
  search.value = "";
  page = Math.floor(rows().indexOf(trial) / PAGE);
  draw();
  const line = body.querySelector(`tr[data-row="${trial}"]`);
  if (!line) return;
  line.classList.add("sel");
  line.scrollIntoView({block: "center", behavior: "smooth"});
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const n = +button.dataset.column;
    down = column === n ? !down : false;
    column = n; page = 0;
    document.querySelectorAll("th[aria-sort]").forEach(h => h.setAttribute("aria-sort", "none"));
    button.parentElement.setAttribute("aria-sort", down ? "descending" : "ascending");
    draw();
  });
}
search.addEventListener("input", () => { page = 0; draw(); });
draw();
})();
