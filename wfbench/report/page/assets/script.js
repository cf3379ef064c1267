"use strict";

// --- charts: a specification with placeholders, filled in with what is chosen for each axis

const MOST_NAMES = 16; // beside points: of more, the legend and the pointer tell

const number = (value) => Number(value.toPrecision(4)).toLocaleString("en");

function filled(chart, x, y) {
  const place = (point) => {
    const from = { x: point[x.field], x_low: point[x.low], x_high: point[x.high] };
    Object.assign(from, { y: point[y.field], y_low: point[y.low], y_high: point[y.high] });
    const usable = (c, value) => typeof value === "number" && (c.scale !== "log" || value > 0);
    if (!usable(x, from.x) || !usable(y, from.y)) return null;
    if (!usable(x, from.x_low) || !usable(x, from.x_high)) { delete from.x_low; delete from.x_high; }
    if (!usable(y, from.y_low) || !usable(y, from.y_high)) { delete from.y_low; delete from.y_high; }
    const between = (v, low, high) => number(v) + (low === undefined ? "" : ` [${number(low)}, ${number(high)}]`);
    const tips = { tip_x: `${x.title}: ${number(from.x)}`, tip_y: `${between(from.y, from.y_low, from.y_high)} ${y.title}` };
    return { run: "", ...point, ...from, ...tips, standing: point[`front_${x.field}`] };
  };
  const words = { "@x": x.title, "@y": y.title, "@xscale": x.scale, "@yscale": y.scale };
  const text = JSON.stringify(chart.spec).replace(/"(@x|@y|@xscale|@yscale)"/g, (_, key) => JSON.stringify(words[key]));
  const scales = { linear: { zero: false }, log: { nice: false } };
  const spec = JSON.parse(text, (_, value) => (value?.type in scales ? { ...value, ...scales[value.type] } : value));
  const points = chart.points.map(place).filter((point) => point !== null);
  const marks = chart.marks.map(place).filter((point) => point !== null);
  marks.forEach((mark) => { mark.short = marks.length > MOST_NAMES / 2 ? "" : `${Math.round(mark.side)} px`; });
  const middle = (Math.min(...points.map((point) => point.x)) + Math.max(...points.map((point) => point.x))) / 2;
  points.forEach((point) => { point.right = point.x > middle; point.name = points.length > MOST_NAMES ? "" : point.mixer; });
  spec.datasets = { points, marks };
  const empty = { "x interval": !points.some((p) => "x_low" in p), "y interval": !points.some((p) => "y_low" in p) };
  Object.assign(empty, { several: !points.some((p) => p.seeds > 1), single: !points.some((p) => p.seeds === 1) });
  Object.assign(empty, { front: !points.some((p) => p.standing === "on the front"), marks: !marks.length });
  empty["names of marks"] = empty.marks;
  spec.layer = spec.layer.filter((layer) => !empty[layer.name]);
  return spec;
}

function draw(figure, chart) {
  const chosen = (axis) => chart[axis][Number(figure.querySelector(`select[data-axis="${axis}"]`)?.value ?? 0)];
  const plot = figure.querySelector(".plot");
  if (!plot.clientWidth) { figure.dataset.narrow = "folded"; return; } // drawn when it is unfolded
  const spec = filled(chart, chosen("x"), chosen("y"));
  const narrow = plot.clientWidth < 620;
  spec.config.legend = { ...spec.config.legend, ...(narrow ? { orient: "bottom", columns: 2, labelLimit: 130 } : {}) };
  figure.dataset.narrow = narrow;
  figure.dataset.points = spec.datasets.points.length;
  const options = { renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } };
  vegaEmbed(plot, spec, options).then((result) => { figure.view = result.view; figure.dataset.drawn = `${chosen("x").field} ${chosen("y").field}`; });
}

for (const figure of document.querySelectorAll(".chart")) {
  const chart = JSON.parse(figure.querySelector("script").textContent);
  figure.querySelectorAll("select").forEach((select) => select.addEventListener("change", () => draw(figure, chart)));
  let asked = null;
  new ResizeObserver(() => {
    clearTimeout(asked);
    asked = setTimeout(() => {
      const width = figure.querySelector(".plot").clientWidth, narrow = width < 620;
      if (width && String(narrow) !== figure.dataset.narrow) draw(figure, chart);
    }, 100);
  }).observe(figure);
  draw(figure, chart);
}

// --- tables: sorted by a click on a heading, filtered by words

const numeric = /^[<>≥~±+]*\s*([−-]?[\d,]*\.?\d+(?:e[-−+]?\d+)?)/;

function key(cell) {
  const text = cell.textContent.trim();
  const found = numeric.exec(text);
  return { text, value: found ? Number(found[1].replace(/,/g, "").replace(/−/g, "-")) : null };
}

function sort(table, column, ascending) {
  const body = table.tBodies[0];
  const ranks = table.tHead.rows[0].cells[column].dataset.ranks !== undefined;
  const rows = [...body.rows].map((row) => ({ row, ...key(row.cells[column]) }));
  const numbers = rows.some((entry) => entry.value !== null);
  const last = (entry) => (ranks && entry.row.classList.contains("alone") ? 2 : numbers && entry.value === null ? 1 : 0);
  rows.sort((a, b) => {
    if (last(a) !== last(b)) return last(a) - last(b);
    const order = numbers && !last(a) ? a.value - b.value : a.text.localeCompare(b.text, "en");
    return ascending || last(a) ? order : -order;
  });
  body.append(...rows.map((entry) => entry.row));
}

for (const table of document.querySelectorAll("table.data")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    sort(table, column, ascending);
  }));
  const find = table.closest("section").querySelector(`input[data-table="${table.id}"]`);
  find?.addEventListener("input", () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}

// --- which one for me: limits that sliders set, over cells that were measured

const titles = { fits: "Fits", may: "May fit: its interval reaches over a limit", unknown: "Unknown", not: "Does not fit" };

function judged(value, limit, bound) {
  if (value.unknown || value.fails) return value.unknown ? "unknown" : "not";
  if (bound === null) return "fits";
  const [estimate, low, high] = value.value;
  const [best, worst] = limit.most ? [low ?? estimate, high ?? estimate] : [high ?? estimate, low ?? estimate];
  const meets = (end) => (limit.most ? end <= bound : end >= bound);
  // A bound that stands for a measured value is met by that value, whose interval reaches over it.
  return meets(worst) ? "fits" : meets(estimate) || meets(best) ? "may" : "not";
}

function choose(form, data) {
  const slider = (name) => form.querySelector(`input[name="${name}"]`);
  const shown = (value, unit) => `${number(value)}${unit && ` ${unit}`}`;
  const side = Number(slider("side").value);
  slider("side").parentElement.querySelector("output").textContent = `${data.sides[side]} px`;
  const bounds = data.limits.map((limit) => {
    const place = Number(slider(limit.field).value), bound = place ? limit.values[place - 1] : null;
    slider(limit.field).parentElement.querySelector("output").textContent = bound === null ? "any" : shown(bound, limit.unit);
    return bound;
  });
  const groups = { fits: [], may: [], unknown: [], not: [] };
  for (const candidate of data.candidates) {
    const cell = candidate.cells[side], verdicts = [], words = [];
    data.limits.forEach((limit, at) => {
      const value = cell[limit.field] ?? candidate[limit.field];
      const verdict = bounds[at] === null && limit.field !== "latency" ? "fits" : judged(value, limit, bounds[at]);
      verdicts.push(verdict);
      const reason = value.unknown ?? value.fails;
      if (reason === undefined) words.push(shown(value.value[0], limit.unit || limit.words));
      else if (verdict !== "fits") words.push(`${limit.words} ${reason}`);
    });
    const worst = ["not", "unknown", "may"].find((verdict) => verdicts.includes(verdict)) ?? "fits";
    groups[worst].push({ name: candidate.name, words: words.join(", "), order: cell.latency.value?.[0] ?? Infinity });
  }
  const found = form.querySelector(".found");
  found.replaceChildren();
  for (const [group, members] of Object.entries(groups)) {
    if (!members.length) continue;
    members.sort((a, b) => a.order - b.order);
    const heading = document.createElement("h4"), list = document.createElement("ul");
    heading.textContent = `${titles[group]} (${members.length})`;
    list.className = group;
    for (const { name, words } of members) {
      const item = document.createElement("li"), bold = document.createElement("b");
      bold.textContent = name;
      item.append(bold, words && ` ${words}`);
      list.append(item);
    }
    found.append(heading, list);
  }
}

for (const form of document.querySelectorAll(".chooser")) {
  const data = JSON.parse(form.querySelector("script").textContent);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => choose(form, data));
  choose(form, data);
}

// --- a link into a folded part unfolds it

function unfold() {
  const part = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!part) return;
  for (let at = part; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  const inside = part.querySelector(":scope > details");
  if (inside) inside.open = true;
  part.scrollIntoView();
}

addEventListener("hashchange", unfold);
document.querySelector("nav").addEventListener("click", () => setTimeout(unfold));
unfold();

// --- print: what is folded away on a screen is shown on paper

addEventListener("beforeprint", () => document.querySelectorAll("main details.folded").forEach((folded) => { folded.open = true; }));
