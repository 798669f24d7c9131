// What n8n's expressions see, well enough to evaluate those of the shipped workflows with data that stand in for a run.
// A read of a field that the data have is a hit. Of one that they lack it is a miss, where all fields of the object are
// known: `#` in it says so. `*` in it: there may be any other field, too.
"use strict";

const OPEN = "*";
const KNOWN = "#";
const NOW = Date.UTC(2026, 10, 22, 3, 0, 0);
const remembered = new Map();
let log = { hits: new Set(), misses: new Set() };
let usual = {};

// ---------------------------------------------------------------- values

function anything(name) {
  const text = typeof usual[name] === "string" ? usual[name] : "anything";
  const symbols = {
    [Symbol.toPrimitive]: (hint) => (hint === "number" ? 1 : text),
    [Symbol.iterator]: function* () {
      yield anything(name);
    },
  };
  return new Proxy(function () {}, {
    get(_, key) {
      if (typeof key === "symbol") return symbols[key];
      if (["toJSON", "toString", "valueOf"].includes(key)) return () => text;
      if (key === "length") return 1;
      if (["slice", "concat", "at"].includes(key)) return () => anything(name);
      if (key in String.prototype) return String.prototype[key].bind(text);
      if (key in Array.prototype) return Array.prototype[key].bind([anything(name)]);
      return anything(key);
    },
    apply: () => anything(name),
    has: () => true,
  });
}

function tracked(value, path) {
  if (value === null || typeof value !== "object") return value;
  return new Proxy(value, {
    get(target, key) {
      if (typeof key === "symbol") return Reflect.get(target, key);
      if (Array.isArray(target)) {
        if (Object.hasOwn(target, key)) return tracked(target[key], `${path}[]`);
        return target[key];
      }
      if (Object.hasOwn(target, key)) {
        log.hits.add(`${path}.${key}`);
        return tracked(target[key], `${path}.${key}`);
      }
      if (key in target || key === "toJSON") return target[key];
      if (Object.hasOwn(target, OPEN)) {
        log.hits.add(`${path}.${key}`);
        return anything(key);
      }
      if (Object.hasOwn(target, KNOWN)) log.misses.add(`${path}.${key}`);
      return undefined;
    },
  });
}

// ---------------------------------------------------------------- time, as luxon has it

const UNITS = { milliseconds: 1, seconds: 1e3, minutes: 6e4, hours: 36e5, days: 864e5, weeks: 6048e5, months: 2592e6, years: 31536e6 };

function milliseconds(amount, unit) {
  if (typeof amount === "number") return amount * (UNITS[unit] ?? UNITS[`${unit}s`] ?? 1);
  return Object.entries(amount).reduce((sum, [name, one]) => sum + Number(one) * (UNITS[name] ?? UNITS[`${name}s`]), 0);
}

class Span {
  constructor(length) {
    this.length = length;
    for (const [name, size] of Object.entries(UNITS)) this[name] = length / size;
  }
  as(unit) {
    return this.length / (UNITS[unit] ?? UNITS[`${unit}s`]);
  }
  toMillis() {
    return this.length;
  }
  toObject() {
    return { ...UNITS, milliseconds: this.length };
  }
  toHuman() {
    return `${this.length} ms`;
  }
  toFormat(format) {
    return format;
  }
}

class DateTime {
  constructor(at) {
    this.ts = at;
  }
  static now() {
    return new DateTime(NOW);
  }
  static utc() {
    return new DateTime(NOW);
  }
  static local() {
    return new DateTime(NOW);
  }
  static fromISO(text) {
    return new DateTime(Date.parse(text));
  }
  static fromFormat() {
    return new DateTime(NOW);
  }
  static fromMillis(at) {
    return new DateTime(Number(at));
  }
  static fromSeconds(at) {
    return new DateTime(Number(at) * 1000);
  }
  static fromJSDate(date) {
    return new DateTime(date.getTime());
  }
  get isValid() {
    return !Number.isNaN(this.ts);
  }
  plus(amount, unit) {
    return new DateTime(this.ts + milliseconds(amount, unit));
  }
  minus(amount, unit) {
    return new DateTime(this.ts - milliseconds(amount, unit));
  }
  diff(other) {
    return new Span(this.ts - Number(other));
  }
  diffNow() {
    return new Span(this.ts - NOW);
  }
  diffTo(other) {
    return new Span(Number(other) - this.ts);
  }
  toMillis() {
    return this.ts;
  }
  toSeconds() {
    return this.ts / 1000;
  }
  toISO() {
    return new Date(this.ts).toISOString();
  }
  toISODate() {
    return this.toISO().slice(0, 10);
  }
  toISOTime() {
    return this.toISO().slice(11);
  }
  toFormat(format) {
    const iso = this.toISO();
    const parts = { yyyy: [0, 4], MM: [5, 7], dd: [8, 10], HH: [11, 13], mm: [14, 16], ss: [17, 19] };
    return format.replace(/yyyy|MM|dd|HH|mm|ss/g, (part) => iso.slice(...parts[part]));
  }
  toJSDate() {
    return new Date(this.ts);
  }
  toString() {
    return this.toISO();
  }
  toJSON() {
    return this.toISO();
  }
  valueOf() {
    return this.ts;
  }
}
for (const same of ["toUTC", "toLocal", "setZone", "setLocale", "startOf", "endOf", "set", "reconfigure"]) {
  DateTime.prototype[same] = function () {
    return this;
  };
}
for (const [part, from] of [["year", 0], ["month", 5], ["day", 8], ["hour", 11], ["minute", 14], ["second", 17]]) {
  Object.defineProperty(DateTime.prototype, part, { get() { return Number(this.toISO().slice(from).match(/\d+/)[0]); } });
}
Object.defineProperty(DateTime.prototype, "weekday", { get() { return new Date(this.ts).getUTCDay() || 7; } });

// ---------------------------------------------------------------- what n8n adds to values

function extend(prototype, methods) {
  for (const [name, method] of Object.entries(methods)) {
    if (!(name in prototype)) Object.defineProperty(prototype, name, { value: method, configurable: true });
  }
}
const empty = {
  isEmpty() {
    return this.length === 0;
  },
  isNotEmpty() {
    return this.length > 0;
  },
};
extend(String.prototype, {
  ...empty,
  toNumber() { return Number(this); },
  toInt() { return parseInt(this, 10); },
  toFloat() { return parseFloat(this); },
  toBoolean() { return !["", "0", "no", "false"].includes(String(this).toLowerCase()); },
  toDateTime() { return DateTime.fromISO(String(this)); },
  parseJson() { return JSON.parse(this); },
  urlEncode() { return encodeURIComponent(this); },
  toSentenceCase() { return String(this); },
  toTitleCase() { return String(this); },
});
extend(Array.prototype, {
  ...empty,
  first() { return this[0]; },
  last() { return this[this.length - 1]; },
  compact() { return this.filter((item) => item !== null && item !== undefined && item !== ""); },
  unique() { return [...new Set(this)]; },
  sum() { return this.reduce((sum, item) => sum + Number(item), 0); },
  pluck(name) { return this.map((item) => item[name]); },
  toJsonString() { return JSON.stringify(this); },
});
extend(Number.prototype, {
  round(digits = 0) { return Number(this.toFixed(digits)); },
  floor() { return Math.floor(this); },
  ceil() { return Math.ceil(this); },
  toDateTime() { return DateTime.fromMillis(Number(this)); },
});

// ---------------------------------------------------------------- evaluating

function items(name, round, executed) {
  const { variants: known, main } = remembered.get(name) ?? { variants: [], main: 0 };
  const path = `$('${name}')`;
  const wrap = (json) => ({ json: tracked(json, `${path}.json`), binary: { data: anything("data") }, pairedItem: 0 });
  const all = () => known.slice(0, main || known.length).map(wrap); // of the first output, the others are for failures
  const one = () => (known.length ? wrap(known[round % known.length]) : { json: anything(name), binary: anything("data") });
  return {
    all,
    first: one,
    last: one,
    itemMatching: one,
    get item() { return one(); },
    isExecuted: executed && known.length > 0,
    params: anything("params"),
    context: anything("context"),
  };
}

function scope(input, round, at, workflow, executed) {
  const json = input.length ? tracked(input[round % input.length], "$json") : anything("json");
  const here = { json, binary: { data: anything("data") } };
  const all = () => input.map((item) => ({ json: tracked(item, "$json"), binary: here.binary }));
  const resume = `http://127.0.0.1:5678/webhook-waiting/231`;
  const signature = `signature=${"0123456789abcdef".repeat(4)}`;
  return {
    $json: json,
    $binary: here.binary,
    $input: { item: here, first: () => here, last: () => here, all, params: anything("params"), context: anything("context") },
    $: (name) => items(name, at.get(name) ?? round, executed),
    $node: new Proxy({}, { get: (_, name) => items(name, at.get(name) ?? round, executed).item }),
    $items: (name) => items(name, at.get(name) ?? round, executed).all(),
    $execution: { id: "231", mode: "manual", resumeUrl: `${resume}?${signature}`, resumeFormUrl: `${resume}?${signature}` },
    $workflow: workflow,
    $prevNode: { name: "the node before", outputIndex: 0, runIndex: 0 },
    $now: DateTime.now(),
    $today: DateTime.now(),
    $itemIndex: round,
    $runIndex: 0,
    $nodeVersion: 1,
    $response: { body: { [OPEN]: true }, headers: { [OPEN]: true }, statusCode: 200 },
    $request: anything("request"),
    $pageCount: 1,
    $parameter: anything("parameter"),
    $if: (question, yes, no) => (question ? yes : no),
    $ifEmpty: (value, other) => (value === undefined || value === null || value === "" ? other : value),
    $max: Math.max,
    $min: Math.min,
    $not: (value) => !value,
    DateTime,
  };
}

// `=text {{ code }} text` into its parts; n8n too ends the code at the first }}.
function parts(source) {
  return source
    .slice(1)
    .split("{{")
    .map((part, number) => {
      if (number === 0) return { text: part };
      const end = part.indexOf("}}");
      if (end < 0) throw new SyntaxError("{{ without }}");
      return { code: part.slice(0, end), text: part.slice(end + 2) };
    });
}

function compile(source, names) {
  const [head, ...rest] = parts(source);
  const compiled = rest.map(({ code, text }) => [new Function(...names, `"use strict"; return (${code.trim().replace(/;$/, "")}\n);`), text]);
  if (compiled.length === 1 && head.text === "" && compiled[0][1] === "") return (values) => compiled[0][0](...values);
  return (values) => compiled.reduce((sum, [run, text]) => sum + String(run(...values) ?? "") + text, head.text);
}

function remember(name, variants, main) {
  remembered.set(name, { variants: JSON.parse(variants), main });
}

function forget(samples) {
  remembered.clear();
  usual = JSON.parse(samples);
}

// Which item of each node a round sees: first they go side by side, then every one meets every other.
function placed(references, sizes, round, longest, height) {
  let rest = round < longest ? round : Math.floor((round - longest) / height);
  return new Map(
    references.map((name, number) => {
      const here = rest;
      if (round >= longest) rest = Math.floor(rest / Math.max(1, sizes[number]));
      return [name, here];
    }),
  );
}

// Each expression in as many rounds as it takes to see every item of the input and of the nodes it names.
function evaluate(request) {
  const { expressions, references, input, workflow, most } = JSON.parse(request);
  const sizes = references.map((name) => remembered.get(name)?.variants.length ?? 0);
  const height = Math.max(1, input.length);
  const longest = Math.max(height, ...sizes);
  const together = [height, ...sizes].filter((size) => size > 1);
  const pairs = together.length > 1 ? together.reduce((one, other) => one * other) : 0;
  const rounds = Math.min(longest + Math.min(pairs, 24), most);
  const answer = {};
  for (const source of expressions) {
    const mentioned = references.filter((name) => source.includes(name));
    const ofInput = /\$(json|input|binary|itemIndex)\b/.test(source);
    const ran = source.includes(".all()") ? Math.min(rounds, 8) : rounds; // one round sees every item there
    const last = source.includes("isExecuted") ? 1 : 0; // one more, in which the nodes it asks about did not run
    const known = { hits: new Set(), misses: new Set() };
    const done = new Map();
    const outcomes = [];
    let run = null;
    for (let round = 0; round < ran + last; round += 1) {
      const at = placed(references, sizes, round, longest, height);
      const here = (round < longest ? round : round - longest) % height;
      const size = (name) => remembered.get(name)?.variants.length || 1;
      const sees = [round < ran, ofInput && here, ...mentioned.map((name) => at.get(name) % size(name))].join();
      if (!done.has(sees)) {
        log = round < ran ? known : { hits: known.hits, misses: new Set() };
        const names = scope(input, here, at, workflow, round < ran);
        done.set(sees, outcome(() => {
          run ??= compile(source, Object.keys(names));
          return run(Object.values(names));
        }));
      }
      outcomes.push(done.get(sees));
    }
    answer[source] = { outcomes, hits: [...known.hits], misses: [...known.misses] };
  }
  return JSON.stringify(answer);
}

function outcome(run) {
  try {
    const value = run();
    return { value: value === undefined ? undefined : JSON.parse(JSON.stringify(value) ?? "null") };
  } catch (error) {
    return { error: `${error.name}: ${error.message}` };
  }
}
