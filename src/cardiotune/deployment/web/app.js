"use strict";
// The page: a form, a table, the model. It asks its own server and nobody else; text from the server is never taken as HTML.

const $ = id => document.getElementById(id);
let model = null;

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

const show = (node, visible = true) => { node.hidden = !visible; };
const percent = share => share > 0 && share < 0.01 ? "under 1 %" : share < 1 && share > 0.99 ? "over 99 %" : `${Math.round(100 * share)} %`;
const counted = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const fixed = (value, digits = 3) => value === null ? "–" : value.toFixed(digits);
const capital = text => text.charAt(0).toUpperCase() + text.slice(1);
const labelOf = column => (model.fields.find(field => field.column === column) || { label: column.replaceAll("_", " ") }).label;

// ---------------------------------------------------------------------------------------------------------------------
// asking

class Refused extends Error {
  constructor(status, message, details, wait) { super(message); Object.assign(this, { status, details, wait }); }
}

async function ask(path, body) {
  const headers = {}, key = sessionStorage.getItem("key");
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch { throw new Refused(0, "The server does not answer. Is it running?", [], null); }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  const message = said ? capital(said.error.message) : `The server answered with status ${answer.status}`;
  throw new Refused(answer.status, message, said ? said.error.details : [], Number(answer.headers.get("Retry-After")) || null);
}

/** Ask again while the server is busy, as long as it says to. */
async function askPatiently(path, body, stopped = () => false) {
  for (let tries = 0; ; tries++) {
    try { return await (await ask(path, body)).json(); }
    catch (error) {
      if (!(error instanceof Refused) || ![429, 503].includes(error.status) || tries === 30 || stopped()) throw error;
      await new Promise(done => setTimeout(done, 1000 * (error.wait || 1)));
    }
  }
}

async function open() {
  show($("key-form"), false);
  try { model = await askPatiently("/v1/model"); }
  catch (error) {
    if (error.status === 401) {
      show($("status"), false);
      show($("key-form"));
      const tried = sessionStorage.getItem("key") !== null;
      show($("key-problem"), tried);
      $("key-problem").textContent = tried ? "The server does not know this key." : "";
      $("key").focus();
    } else $("status").textContent = error.message;
    return;
  }
  $("title").textContent = `Risk of ${model.outcome}`;
  document.title = `Risk of ${model.outcome} – CardioTune`;
  drawForm();
  drawModel();
  show($("status"), false);
  show($("app"));
}

$("key-form").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value.trim());
  open();
});

// ---------------------------------------------------------------------------------------------------------------------
// tabs

const tabs = [...document.querySelectorAll('[role="tab"]')];

function choose(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    show($(other.getAttribute("aria-controls")), chosen);
  }
}

for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = event.key === "Home" ? 0 : event.key === "End" ? tabs.length - 1 : step ? (place + step + tabs.length) % tabs.length : null;
    if (next === null) return;
    event.preventDefault();
    choose(tabs[next]);
    tabs[next].focus();
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// one patient

const spoken = field => field.range ? `${field.range[0]} to ${field.range[1]}` : "";

function drawForm() {
  $("fields").replaceChildren(...model.fields.map((field, place) => {
    const id = `field-${place}`, numeric = field.kind.values === "number";
    let control;
    if (field.codes) control = el("select", { id }, el("option", { value: "" }, "not recorded"),
      ...field.codes.map(({ code, meaning }) => el("option", { value: code }, meaning)));
    else if (field.role === "text") control = el("textarea", { id, maxlength: 20000 });
    else control = el("input", { id, type: numeric ? "number" : field.kind.values === "day" ? "date" : "text", step: numeric ? (field.kind.whole ? 1 : "any") : null,
      inputmode: field.kind.whole ? "numeric" : numeric ? "decimal" : null, autocomplete: "off" });
    control.setAttribute("aria-describedby", `${id}-help`);
    control.addEventListener("input", () => look(field, place));
    const unit = field.unit ? el("span", {}, field.unit) : null;
    return el("div", { class: field.role === "text" ? "field whole" : "field" }, el("label", { for: id }, capital(field.label)),
      el("div", { class: "with-unit" }, control, unit), el("small", { id: `${id}-help` }, helpOf(field)));
  }));
}

function helpOf(field) {
  if (field.codes) return "";
  if (field.range) return `${spoken(field)}${field.unit ? ` ${field.unit}` : ""}`;
  return { day: "a day", number: field.kind.whole ? "a whole number" : "a number" }[field.kind.values] ?? "";
}

/** The value of a field, or undefined when it cannot be read; says beside the field what to know. */
function look(field, place) {
  const control = $(`field-${place}`), help = $(`field-${place}-help`);
  const bad = control.validity.badInput || (field.kind.whole && control.value !== "" && !Number.isInteger(Number(control.value)));
  const numeric = field.kind.values === "number";
  const value = control.value === "" ? null : numeric ? Number(control.value) : control.value;
  const outside = !bad && isOutside(value, field);
  control.setAttribute("aria-invalid", String(bad));
  help.className = bad ? "wrong" : outside ? "said" : "";
  const inYears = field.unit === "days" && value !== null && !bad ? ` (${(value / 365.25).toFixed(1)} years)` : "";
  help.textContent = bad ? `Expected ${field.expected}.` : outside ? `Outside ${helpOf(field)}: the model was not tried there.` : helpOf(field) + inYears;
  return bad ? undefined : value;
}

let asked = 0;

/** The form no longer holds the patient whose risk is shown or on its way. */
function forget() {
  asked++;
  show($("result-full"), false);
  show($("result-empty"));
}

$("patient").addEventListener("input", forget);
$("patient").addEventListener("reset", () => setTimeout(() => {
  forget();
  model.fields.forEach(look);
  show($("form-problem"), false);
}));

$("patient").addEventListener("submit", async event => {
  event.preventDefault();
  const turn = ++asked;
  show($("form-problem"), false);
  const values = model.fields.map(look);
  const bad = values.indexOf(undefined);
  if (bad >= 0) { $(`field-${bad}`).focus(); return; }
  const row = Object.fromEntries(model.fields.map((field, place) => [field.column, values[place]]));
  const button = event.submitter || $("patient").querySelector("button");
  button.disabled = true;
  try {
    const answer = await askPatiently("/v1/predict", { rows: [row] });
    if (turn === asked) { drawRisk(answer); await drawDrivers(row, turn); }
  } catch (error) {
    const details = (error.details || []).map(({ column, problem }) => (column ? `${labelOf(column)}: ${problem}` : problem));
    $("form-problem").textContent = [error.message, ...details].join(". ");
    show($("form-problem"));
  } finally { button.disabled = false; }
});

const valuesSaid = found => `${found.columns_known} known values, ${found.columns_unseen} unseen in training, ${found.columns_absent} quantities of training absent`;

function drawRisk(answer) {
  const [found] = answer.predictions, count = Math.round(100 * found.probability);
  show($("result-empty"), false);
  show($("result-full"));
  $("risk").textContent = percent(found.probability);
  $("decision").textContent = found.abstain ? "no decision" :
    found.decision ? `at or above the threshold of ${percent(found.threshold)}: flagged` : `below the threshold of ${percent(found.threshold)}: not flagged`;
  const why = [];
  if (found.out_of_range.length) why.push(`Out of range: ${found.out_of_range.map(labelOf).join(", ")}. The model was not tried with such a value, so it counts as not recorded here, and no decision is given.`);
  else if (found.abstain && found.columns_known !== undefined) why.push(`Too little is recorded that the model has learned from (${valuesSaid(found)}), so no decision is given.`);
  else if (found.abstain) why.push("Nothing is recorded, so this is no statement about a patient, and no decision is given.");
  $("warning").replaceChildren(...why.map(text => el("p", {}, text)));
  show($("warning"), why.length > 0);
  $("people").replaceChildren(...Array.from({ length: 100 }, (_, place) => el("i", { class: place < count ? "in" : null })));
  $("people").setAttribute("aria-label", `${count} of 100 dots are filled`);
  const without = found.out_of_range.length ? `Without ${found.out_of_range.map(labelOf).join(" and ")}: of` : "Of";
  $("meaning").textContent = `${without} 100 people like this, about ${count} would have ${model.outcome}, and about ${100 - count} would not.`;
  $("calibration").textContent = calibrationSaid(found.probability);
  const missing = found.not_recorded.length;
  $("provenance").textContent = `${missing ? `Not recorded: ${missing} of ${model.fields.length} fields. ` : ""}Model ${answer.model_version}, calibrator ${answer.calibrator_version}, request ${answer.request_id}.`;
  $("drivers").replaceChildren(el("p", { class: "soft" }, model.explains ? "Leaving out one field after the other…" : "The text came ready made, so no field can be left out."));
  $("result-head").focus({ preventScroll: true });
  $("result").scrollIntoView({ block: "nearest" });
}

function calibrationSaid(risk) {
  const groups = model.calibration_groups;
  if (!groups) return "How well such numbers fit has not been recorded with this model.";
  const near = groups.reduce((best, group) => Math.abs(group.mean_risk - risk) < Math.abs(best.mean_risk - risk) ? group : best);
  return `How far to trust this number: test patients with the nearest risks were given ${percent(near.mean_risk)} on average, and ${percent(near.observed)} of them had ${model.outcome} (95 % interval ${percent(near.low)} to ${percent(near.high)}).`;
}

async function drawDrivers(row, turn) {
  if (!model.explains) return;
  let found;
  try { found = await askPatiently("/v1/explain", { rows: [row] }); }
  catch (error) { if (turn === asked) $("drivers").replaceChildren(el("p", { class: "soft" }, error.message)); return; }
  if (turn !== asked) return;
  const shown = found.fields.slice(0, 8), widest = Math.max(...shown.map(field => Math.abs(field.change)), 1e-9);
  const lines = shown.map(({ column, change }) => {
    const points = -100 * change, raises = points >= 0, fill = el("i", { class: raises ? null : "lowers" });
    fill.style[raises ? "left" : "right"] = "50%";
    fill.style.width = `${(50 * Math.abs(change)) / widest}%`;
    const size = Math.abs(points) < 0.05 ? "no change" : `${raises ? "raises" : "lowers"} by ${Math.abs(points).toFixed(1)}`;
    return el("tr", {}, el("th", { scope: "row" }, capital(labelOf(column))), el("td", { class: "bar" }, el("div", { class: "track", "aria-hidden": "true" }, fill)), el("td", {}, size));
  });
  $("drivers").replaceChildren(shown.length ? el("table", { class: "drivers" }, el("caption", {}, "By how many percentage points each finding raises or lowers the risk, beside the same patient without it. It shows what the model rests on, not what causes disease."), el("tbody", {}, ...lines)) : el("p", { class: "soft" }, "No field is recorded."));
}

// ---------------------------------------------------------------------------------------------------------------------
// many patients

const MOST_BYTES = 50e6, SHOWN = 200, MOST_REFUSED = 20;
let table = null, running = false, stopping = false, results = [];

for (const kind of ["dragenter", "dragover"]) $("drop").addEventListener(kind, event => { event.preventDefault(); $("drop").classList.add("over"); });
for (const kind of ["dragleave", "drop"]) $("drop").addEventListener(kind, event => { event.preventDefault(); $("drop").classList.remove("over"); });
$("drop").addEventListener("drop", event => { if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]); });
$("file").addEventListener("change", () => { if ($("file").files.length) take($("file").files[0]); $("file").value = ""; });

async function take(file) {
  if (running) { fail("A table is being scored. Wait until it is done, or stop it."); return; }
  for (const part of ["checks", "running", "results", "many-problem"]) show($(part), false);
  if (file.size > MOST_BYTES) { fail(`The file is over ${MOST_BYTES / 1e6} MB. Use \`cardiotune predict\`, which takes tables of any size.`); return; }
  let text;
  try { text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer()); }
  catch { fail("The file is not UTF-8 text. Save it as CSV UTF-8, and try again."); return; }
  const parsed = parseCsv(text);
  table = checkTable(parsed, model.fields, model.missing_marks);
  const stops = [], looks = [], fine = [];
  const listed = counts => [...counts].map(([column, count]) => `${column} (${count})`).join(", ");
  const unreadable = table.unreadable.filter(bad => bad.length).length;
  if (!parsed.closed) stops.push("A quotation mark is not closed, so the rows cannot be told apart.");
  if (table.twice.length) stops.push(`Columns that stand twice: ${table.twice.join(", ")}.`);
  if (!table.rows.length) stops.push("The file has no rows below its header.");
  else if (table.absent.length === model.fields.length) stops.push("None of the model's columns is in the header; they are listed under The model.");
  else if (table.absent.length) stops.push(`Columns that are not there: ${table.absent.join(", ")}. Add them, with empty cells where they are not recorded.`);
  fine.push(`${counted(table.rows.length, "row")}, ${counted(parsed.header.length, "column")}.`);
  if (table.passedOver.length) fine.push(`Columns that the model does not use are not sent: ${table.passedOver.length}.`);
  if (parsed.blank) looks.push(`${counted(parsed.blank, "line")} without any value left out.`);
  if (unreadable) looks.push(`${counted(unreadable, "row")} will not be scored, for cells that cannot be read: ${[listed(table.counts.unreadable), table.uneven ? `${table.uneven} with another number of cells than the header` : ""].filter(Boolean).join(", ")}.`);
  if (table.counts.outside.size) looks.push(`Values out of range, where the answer abstains: ${listed(table.counts.outside)}.`);
  if (table.counts.missing.size) looks.push(`Not recorded: ${listed(table.counts.missing)}.`);
  if (!stops.length && !looks.length) fine.push("Every cell can be read and is in range.");
  const lines = (kind, texts) => texts.map(text => el("li", { class: kind }, text));
  $("check-list").replaceChildren(...lines("stop", stops), ...lines("fine", fine), ...lines("look", looks));
  $("start").disabled = stops.length > 0 || unreadable === table.rows.length;
  show($("checks"));
  $("checks-head").focus();
}

function fail(message) { $("many-problem").textContent = message; show($("many-problem")); }

/** Rows of a table in parts that the server takes: not too many, not too large. */
function partsOf(rows) {
  const most = Math.min(model.limits.rows, 100), room = model.limits.body_bytes - 100, encoder = new TextEncoder(), parts = [];
  let part = [], size = 0;
  rows.forEach((row, place) => {
    if (!row) return;
    const bytes = encoder.encode(JSON.stringify(row)).length + 1;
    if (part.length && (part.length === most || size + bytes > room)) { parts.push(part); part = []; size = 0; }
    part.push(place);
    size += bytes;
  });
  return part.length ? [...parts, part] : parts;
}

$("start").addEventListener("click", async () => {
  const { rows } = table, parts = partsOf(rows), wanted = parts.flat().length;
  results = table.unreadable.map((bad, place) => ({ row: place + 1, problem: bad.length ? `cannot be read: ${bad.join(", ")}` : "not scored" }));
  running = true;  // until the last answer is there: only then may another table take its place
  stopping = false;
  show($("many-problem"), false);
  show($("results"), false);
  show($("running"));
  show($("cancel"));
  $("start").disabled = true;
  $("progress").max = wanted;
  let problem = null, done = 0, refused = 0;
  while (parts.length && !stopping) {
    const some = parts.shift();
    $("progress").value = done;
    $("progress-text").textContent = `Scoring: ${done} of ${wanted} rows`;
    try {
      const answer = await askPatiently("/v1/predict", { rows: some.map(place => rows[place]) }, () => stopping);
      answer.predictions.forEach((found, i) => { results[some[i]] = { row: some[i] + 1, ...found, problem: null, model: answer.model_version, calibrator: answer.calibrator_version }; });
      done += some.length;
    } catch (error) {
      if ([413, 422].includes(error.status) && refused < MOST_REFUSED) {  // a row of these cannot be scored: look for it, and go on without it
        if (some.length > 1) parts.unshift(some.slice(0, some.length / 2), some.slice(some.length / 2));
        else { results[some[0]].problem = [error.message, ...(error.details || []).map(({ column, problem: what }) => (column ? `${column}: ${what}` : what))].join(". "); done++; refused++; }
        continue;
      }
      problem = `Stopped after ${counted(done, "row")}. ${error.message}`;
      break;
    }
  }
  running = false;
  for (const part of ["running", "cancel"]) show($(part), false);
  $("start").disabled = false;
  if (problem) fail(problem);
  drawResults(parts.length > 0 || problem !== null);
});

$("cancel").addEventListener("click", () => { stopping = true; show($("cancel"), false); $("progress-text").textContent = "Stopping: the rows that were sent are still answered."; });

function drawResults(partly) {
  const scored = results.filter(result => result.problem === null), abstained = scored.filter(result => result.abstain);
  const flagged = scored.filter(result => result.decision === 1);
  $("summary").textContent = `${partly ? "Partly done: " : ""}${scored.length} of ${results.length} rows scored; ${flagged.length} flagged (risk of ${percent(model.threshold)} or more), ${abstained.length} without a decision, because a value is out of range or too little is recorded.`;
  const words = ({ decision, abstain }) => (abstain ? "no decision" : decision ? "flagged" : "not flagged");
  const line = result => el("tr", { class: result.problem !== null || result.abstain ? "abstained" : null }, el("th", { scope: "row" }, String(result.row)),
    ...(result.problem !== null ? [el("td", {}, "–"), el("td", {}, "–"), el("td", {}, result.problem)] :
      [el("td", {}, fixed(result.probability)), el("td", {}, words(result)), el("td", {}, [result.out_of_range.length ? `out of range: ${result.out_of_range.join(", ")}` : null, result.columns_known === undefined ? null : valuesSaid(result)].filter(Boolean).join("; "))]));
  const head = ["row", "risk", "decision", "to know"].map(name => el("th", { scope: "col" }, name));
  $("result-table").replaceChildren(el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...results.slice(0, SHOWN).map(line)));
  $("shown").textContent = results.length > SHOWN ? `The first ${SHOWN} of ${results.length} rows are shown; the download has all.` : "";
  show($("results"));
  $("results-head").focus();
}

$("download").addEventListener("click", () => {
  const header = ["row", "probability", "decision", "threshold", "abstain", "out_of_range", "not_recorded", "problem", "model_version", "calibrator_version"];
  const counts = results.some(result => result.columns_known !== undefined) ? ["columns_known", "columns_unseen", "columns_absent"] : [];
  header.push(...counts);
  const lines = results.map(result => [result.row, result.probability, result.decision, result.threshold, result.abstain === undefined ? null : Number(result.abstain),
    (result.out_of_range || []).join(" "), (result.not_recorded || []).join(" "), result.problem, result.model, result.calibrator, ...counts.map(name => result[name])]);
  save(new Blob([writeCsv(header, lines)], { type: "text/csv" }), "risks.csv");
});

function save(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// ---------------------------------------------------------------------------------------------------------------------
// the model

function drawModel() {
  const { base_model: base, versions, test_part: test } = model;
  const facts = [["Outcome", model.outcome], ["Run", model.name], ["Model", model.model], ["Base model", base ? [base.name, base.license].filter(Boolean).join(", ") : "none"],
    ["Model version", versions.model], ["Calibrator version", versions.calibrator], ["Threshold", `flagged at ${percent(model.threshold)} and above`],
    ["Test part", test ? `${test.n} patients, ${test.n_events} with ${model.outcome}` : "not recorded with this model"], ["Use", "research only"]];
  $("facts").replaceChildren(...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  show($("report"), model.has_report);
  const between = ci => (ci ? `${fixed(ci[0])} to ${fixed(ci[1])}` : "–");
  if (model.metrics) $("metrics").replaceChildren(el("h3", {}, "On the test part"), grid(["metric", "value", "95 % interval", ""], model.metrics.map(entry => [entry.metric, fixed(entry.value), between(entry.ci), entry.reads]), "Metrics"));
  if (model.calibration_groups) $("groups").replaceChildren(el("h3", {}, "Do the risks mean what they say?"), grid(["mean risk given", `had ${model.outcome}`, "95 % interval"],
    model.calibration_groups.map(group => [percent(group.mean_risk), percent(group.observed), `${percent(group.low)} to ${percent(group.high)}`]), "Calibration in groups of test patients"));
  const allowed = field => field.codes ? field.codes.map(({ code, meaning }) => (code === meaning ? code : `${code}: ${meaning}`)).join(", ") : field.expected;
  $("dictionary").replaceChildren(...gridParts(["column", "meaning", "values"], model.fields.map(field => [field.column, field.label, allowed(field)])));
  if (model.card) { $("card").replaceChildren(...markdown(model.card)); show($("card-part")); }
}

function gridParts(head, rows) {
  return [el("thead", {}, el("tr", {}, ...head.map(name => (name ? el("th", { scope: "col" }, name) : el("td", {}))))),
    el("tbody", {}, ...rows.map(([first, ...others]) => el("tr", {}, el("th", { scope: "row" }, first), ...others.map(cell => el("td", {}, cell)))))];
}

function grid(head, rows, name) {
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, el("table", {}, ...gridParts(head, rows)));
}

$("report").addEventListener("click", async event => {
  if (!sessionStorage.getItem("key")) return;
  event.preventDefault(); // a link cannot carry the key
  save(await (await ask("/v1/report")).blob(), "report.html");
});

/** The Markdown that our model cards use, as elements: headings, lists, tables, paragraphs; bold, code and links in them. */
function markdown(text) {
  const blocks = text.replace(/^---\n[\s\S]*?\n---\n/, "").trim().split(/\n{2,}/);
  return blocks.flatMap(block => {
    const heading = block.match(/^(#{1,6}) +(.*)(?:\n([\s\S]*))?$/);
    if (heading) return [el(heading[1].length > 1 ? "h5" : "h4", {}, ...inline(heading[2])), ...(heading[3] ? markdown(heading[3]) : [])];
    const lines = block.split("\n");
    if (/^[-*] /.test(block)) return [el("ul", {}, ...block.split(/\n(?=[-*] )/).map(item => el("li", {}, ...inline(item.slice(2)))))];
    if (lines.length > 1 && /^\|[-:| ]+\|$/.test(lines[1])) {
      const cells = line => line.replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map(cell => cell.trim().replaceAll("\\|", "|"));
      return [grid(cells(lines[0]), lines.slice(2).map(cells), "Table of the model card")];
    }
    return [el("p", {}, ...inline(block))];
  });
}

function inline(text) {
  return text.replaceAll("\n", " ").replaceAll("&lt;", "<").split(/(\*\*[^*]+\*\*|`[^`]+`|\[[^\]]+\]\(https?:[^)\s]+\)|<https?:[^>\s]+>)/).map(part => {
    if (part.startsWith("**")) return el("strong", {}, part.slice(2, -2));
    if (part.startsWith("`")) return el("code", {}, part.slice(1, -1));
    const link = part.match(/^\[([^\]]+)\]\((https?:[^)\s]+)\)$/) || part.match(/^<((https?:[^>\s]+))>$/);
    return link ? el("a", { href: link[2], rel: "noopener noreferrer" }, link[1]) : part;
  });
}

open();
