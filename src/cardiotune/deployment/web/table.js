"use strict";
// A CSV file in the browser: text -> rows -> what the server takes, by the rules of the API: types and codes are hard, ranges are soft.

const SEPARATORS = [",", ";", "\t", "|"];

/** Cells of every line, quotes taken off. A field may hold line ends and doubled quotes inside quotes. */
function parseCsv(text) {
  text = text.replace(/^\uFEFF/, "");
  const first = text.slice(0, text.search(/[\r\n]|$/));
  const counts = SEPARATORS.map(sign => first.split(sign).length);
  const separator = SEPARATORS[counts.indexOf(Math.max(...counts))];
  const lines = [];
  let line = [], cell = "", quoted = false, begun = false;
  const endLine = () => {
    line.push(cell);
    if (line.length > 1 || line[0] !== "") lines.push(line);
    line = []; cell = ""; begun = false;
  };
  for (let i = 0; i < text.length; i++) {
    const sign = text[i];
    if (quoted) {
      if (sign !== '"') cell += sign;
      else if (text[i + 1] === '"') { cell += '"'; i++; }
      else quoted = false;
    } else if (sign === '"' && !begun) { quoted = true; begun = true; }
    else if (sign === separator) { line.push(cell); cell = ""; begun = false; }
    else if (sign === "\n" || sign === "\r") { if (sign === "\r" && text[i + 1] === "\n") i++; endLine(); }
    else { cell += sign; begun = true; }
  }
  if (cell !== "" || line.length) endLine();
  return { header: (lines[0] || []).map(name => name.trim()), rows: lines.slice(1), closed: !quoted };
}

/** What a cell becomes: `{value}` (null: not recorded), or `{unreadable: true}`. */
function readCell(text, field, marks) {
  text = text.trim();
  const named = (field.codes || []).map(entry => entry.code);
  const plain = field.type === "text" ? text : text.replace(/^([+-]?\d+)\.0+$/, "$1");
  const isMark = marks.includes(text.toLowerCase()) && !named.some(code => code.toLowerCase() === text.toLowerCase());
  if (text === "" || isMark || field.missing.includes(plain)) return { value: null };
  if (field.type === "numeric" || field.type === "integer") {
    if (/^[+-]?[1-9]\d{0,2},\d{3}$/.test(plain)) return { unreadable: true }; // a thousand, or one and a bit
    const pointed = plain.replace(/^([+-]?\d+),(\d+)$/, "$1.$2");
    const number = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(pointed) ? Number(pointed) : NaN;
    const whole = field.type !== "integer" || Number.isInteger(number);
    return Number.isFinite(number) && whole ? { value: number } : { unreadable: true };
  }
  if (field.type === "date") {
    const day = plain.replace(/^(\d{4}-\d{2}-\d{2})[T ].*$/, "$1").replace(/^(\d{2})\/(\d{2})\/(\d{4})$/, "$3-$2-$1");
    const real = /^\d{4}-\d{2}-\d{2}$/.test(day) && !Number.isNaN(Date.parse(day));
    return real ? { value: day } : { unreadable: true };
  }
  if (named.length) {
    const truth = { true: "1", yes: "1", false: "0", no: "0" };
    const zeroOne = named.length === 2 && named.includes("0") && named.includes("1");
    const code = named.includes(plain) ? plain : zeroOne ? truth[plain.toLowerCase()] : undefined;
    return code === undefined ? { unreadable: true } : { value: code };
  }
  return { value: plain };
}

function isOutside(value, field) {
  return field.range !== null && typeof value === "number" && (value < field.range[0] || value > field.range[1]);
}

/**
 * A parsed file against the fields of a row. `rows`: what to send, null where a row cannot be sent; `unreadable`: for each row
 * its columns that cannot be read; counts by column of what is unreadable, missing and outside; columns that are absent.
 */
function checkTable(parsed, fields, marks) {
  const places = new Map(fields.map(field => [field.column, parsed.header.indexOf(field.column)]));
  const absent = fields.filter(field => places.get(field.column) < 0).map(field => field.column);
  const known = new Set(fields.map(field => field.column));
  const found = { absent, passedOver: parsed.header.filter(name => !known.has(name)), rows: [], unreadable: [],
    counts: { unreadable: new Map(), missing: new Map(), outside: new Map() }, uneven: 0,
    twice: parsed.header.filter((name, i) => known.has(name) && parsed.header.indexOf(name) !== i) };
  const count = (kind, column) => found.counts[kind].set(column, (found.counts[kind].get(column) || 0) + 1);
  for (const cells of parsed.rows) {
    const row = {}, bad = [];
    if (cells.length !== parsed.header.length) { found.uneven++; bad.push("the number of cells"); }
    else for (const field of fields) {
      const place = places.get(field.column);
      if (place < 0) continue;
      const { value, unreadable } = readCell(cells[place], field, marks);
      if (unreadable) { bad.push(field.column); count("unreadable", field.column); continue; }
      if (value === null) count("missing", field.column);
      if (isOutside(value, field)) count("outside", field.column);
      row[field.column] = value;
    }
    found.rows.push(bad.length ? null : row);
    found.unreadable.push(bad);
  }
  return found;
}

/** CSV text. A cell that a spreadsheet would run as a formula gets an apostrophe. */
function writeCsv(header, rows) {
  const cell = value => {
    let text = value === null || value === undefined ? "" : String(value);
    if (typeof value !== "number" && /^[=+\-@\t\r]/.test(text)) text = "'" + text;
    return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  return [header, ...rows].map(line => line.map(cell).join(",")).join("\r\n") + "\r\n";
}
