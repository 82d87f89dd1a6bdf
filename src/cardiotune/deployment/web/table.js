"use strict";
// A CSV file in the browser: text -> rows -> what the server takes, by the rules of the API: types and codes are hard, ranges are soft.

const SEPARATORS = [",", ";", "\t", "|"];

/** Cells of every line, quotes taken off. A field may hold line ends and doubled quotes inside quotes. */
function parseCsv(text) {
  text = text.replace(/^\uFEFF?\s*[\r\n]+|^\uFEFF/, "");
  const stated = /^"?sep=(.)"?\r?\n/i.exec(text); // as Excel writes
  if (stated) text = text.slice(stated[0].length);
  const first = text.slice(0, text.search(/[\r\n]|$/));
  const counts = SEPARATORS.map(sign => first.split(sign).length);
  const separator = stated ? stated[1] : SEPARATORS[counts.indexOf(Math.max(...counts))];
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
  const header = (lines[0] || []).map(name => name.replace(/\s*[\r\n]+\s*/g, " ").trim());
  const rows = lines.slice(1).filter(cells => header.length < 2 || cells.some(text => text.trim() !== ""));
  return { header, rows, blank: lines.length - 1 - rows.length, closed: !quoted };
}

// How numbers and dates are written is learned from all cells of a column, of the file and from the model, as the API does
// (cardiotune/data/writing.py): what may be a thousand or one and a bit, May or December, is not read where nothing tells.

const SPACE = "[ \u00a0\u2009\u202f'\u2019]", EXPONENT = "(?:[eE][+-]?[0-9]+)?";
const SPACED = new RegExp(`^[+-]?[0-9]{1,3}(?:${SPACE}[0-9]{3})+(?:[.,][0-9]+)?$`);
const UNCLEAR = /^[+-]?[1-9][0-9]{0,2}[.,][0-9]{3}$/;
const [WITH_POINT, WITH_COMMA] = [["\\.", ","], [",", "\\."]].map(([mark, other]) => new RegExp(
  `^[+-]?(?:[0-9]*${mark}[0-9]+${EXPONENT}|[0-9]{1,3}(?:${other}[0-9]{3})+${mark}[0-9]+|[0-9]{1,3}(?:${other}[0-9]{3}){2,})$`));
const YEAR_FIRST = /^([0-9]{4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,2})(?:[T ].*)?$/;
const YEAR_LAST = /^([0-9]{1,2})[-/.]([0-9]{1,2})[-/.]([0-9]{4})(?:,?[ T:]+[0-9]{1,2}:[0-9]{2}.*)?$/;

function withoutSpaces(text) {
  text = text.trim().replace(/^\u2212/, "-");
  return SPACED.test(text) ? text.replaceAll(new RegExp(SPACE, "g"), "") : text;
}

/** Per column `{decimal, dayFirst}`; null where nothing tells. */
function learnWriting(parsed, fields, places) {
  const found = new Map(), marks = new Set(), orders = new Set();
  for (const field of fields) {
    const own = { marks: new Set(), orders: new Set(), whole: field.kind.whole, unclearOrder: false };
    found.set(field.column, own);
    for (const cells of parsed.rows) {
      const text = withoutSpaces(cells[places.get(field.column)] || ""), day = YEAR_LAST.exec(text);
      if (field.kind.values === "number") {
        if (UNCLEAR.test(text)) { own.whole ||= text.includes(","); continue; }
        own.whole ||= /^[+-]?[0-9]+$/.test(text);
        if (WITH_POINT.test(text)) { own.marks.add("."); marks.add("."); }
        if (WITH_COMMA.test(text)) { own.marks.add(","); marks.add(","); }
      } else if (field.kind.values === "day" && day) {
        const [one, two] = [Number(day[1]), Number(day[2])];
        if (one > 12 !== two > 12) { own.orders.add(one > 12); orders.add(one > 12); }
        else if (one !== two && !/^[0-9]+\.[0-9]+\./.test(text)) own.unclearOrder = true;
      }
    }
  }
  const single = set => set.size === 1 ? [...set][0] : null;
  return new Map(fields.map(field => {
    const own = found.get(field.column), told = new Set([...own.marks, ...(field.decimal ? [field.decimal] : [])]);
    if (!own.marks.size && (marks.size === 1 || !told.size)) for (const mark of marks) told.add(mark);
    const order = own.orders.size ? own.orders : orders;
    return [field.column, {
      decimal: told.size ? single(told) : own.whole ? null : ".",
      dayFirst: field.day_first ?? (order.size ? single(order) : own.unclearOrder ? null : true),
    }];
  }));
}

/** A number as JavaScript writes it; what it cannot be stays as it is. */
function plainNumber(text, decimal) {
  text = withoutSpaces(text);
  const comma = UNCLEAR.test(text) ? decimal && decimal === "," : WITH_COMMA.test(text);
  if (UNCLEAR.test(text) && !decimal) return text + "?";
  if (comma) return text.replaceAll(".", "").replace(",", ".");
  return UNCLEAR.test(text) || WITH_POINT.test(text) ? text.replaceAll(",", "") : text;
}

/** A code without what programs and people write differently, as `spelling` of cardiotune/settings/columns.py. */
function spelling(code) {
  const plain = code.normalize("NFKC").replace(/\p{Cf}/gu, "").trim().replace(/\s+/g, " ").toLowerCase();
  return plain.replace(/^([+-]?[0-9]+)(?:\.0+|,00?)$/, "$1");
}

const TRUTH = new Map([["true", "1"], ["yes", "1"], ["1", "1"], ["false", "0"], ["no", "0"], ["0", "0"]]);

/** The field's code that a cell means; undefined where it is none. As `code_reader` of cardiotune/data/schema.py. */
function readCode(text, field) {
  const codes = field.codes.map(entry => entry.code), key = spelling(text);
  if (codes.includes(text)) return text;
  const alike = codes.filter(code => spelling(code) === key);
  if (alike.length === 1) return alike[0];
  const meant = new Map([...codes].reverse().map(code => [TRUTH.get(spelling(code)), code]));
  const both = field.kind.yes_or_no && meant.has("0") && meant.has("1");
  return both && TRUTH.has(key) ? meant.get(TRUTH.get(key)) : undefined;
}

/** What a cell becomes: `{value}` (null: not recorded), or `{unreadable: true}`. */
function readCell(text, field, marks, { decimal, dayFirst }) {
  text = text.trim();
  const named = (field.codes || []).map(entry => spelling(entry.code));
  const plain = field.kind.values === "text" ? text : text.replace(/^([+-]?[0-9]+)(?:\.0+|,00?)$/, "$1");
  const isMark = marks.includes(text.toLowerCase()) && !named.includes(spelling(text));
  if (text === "" || isMark || field.missing.includes(text)) return { value: null };
  if (field.kind.values === "number") {
    if (/^\.[a-z_]$/i.test(text)) return { value: null }; // as SAS and Stata write a missing number
    const pointed = plainNumber(text, decimal);
    const isNumber = /^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?$/i.test(pointed) && !/^[+-]?[0-9]+E[0-9]+$/.test(pointed);
    const number = isNumber ? Number(pointed) : NaN;
    if (field.missing.some(code => code.trim() !== "" && Number(plainNumber(code, decimal)) === number)) return { value: null };
    const whole = !field.kind.whole || Number.isInteger(number);
    return Math.abs(number) < 1.7e38 && whole ? { value: number } : { unreadable: true };
  }
  if (field.kind.values === "day") {
    const first = YEAR_FIRST.exec(text), last = YEAR_LAST.exec(text);
    const [year, month, day] = first ? first.slice(1) : last && dayFirst !== null
      ? [last[3], last[dayFirst ? 2 : 1], last[dayFirst ? 1 : 2]] : ["", "", ""];
    const iso = `${year}-${month.padStart(2, "0")}-${day.padStart(2, "0")}`, at = new Date(`${iso}T00:00Z`);
    const real = Number(year) >= 1800 && !Number.isNaN(at.getTime()) && at.toISOString().startsWith(iso);
    return real ? { value: iso } : { unreadable: true };
  }
  if (field.kind.values !== "text" && field.missing.some(code => spelling(code) === spelling(text))) return { value: null };
  if (named.length) {
    const code = readCode(plain, field);
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
  const found = { absent, passedOver: parsed.header.filter(name => name && !known.has(name)), rows: [], unreadable: [],
    counts: { unreadable: new Map(), missing: new Map(), outside: new Map() }, uneven: 0,
    twice: parsed.header.filter((name, i) => known.has(name) && parsed.header.indexOf(name) !== i) };
  const writing = learnWriting(parsed, fields, places);
  const count = (kind, column) => found.counts[kind].set(column, (found.counts[kind].get(column) || 0) + 1);
  for (const cells of parsed.rows) {
    const row = {}, bad = [];
    if (cells.length !== parsed.header.length) { found.uneven++; bad.push("the number of cells"); }
    else for (const field of fields) {
      const place = places.get(field.column);
      if (place < 0) continue;
      const { value, unreadable } = readCell(cells[place], field, marks, writing.get(field.column));
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
