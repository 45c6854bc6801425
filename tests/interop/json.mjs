// JSON read strictly, as FORMAT.md has it: "Reading strictly", and no two members of one name.
//
// JSON.parse cannot do that: it knows no doubles, takes half a surrogate pair, and makes 1 and 1.0 the same. Here objects
// are Maps, whole numbers are BigInts, and numbers with a fraction or an exponent are Numbers.

export class Refused extends Error {
  constructor(word, reason) {
    super(reason ?? word);
    this.word = word;
  }
}

const DEPTH = 64;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
const PLAIN = /[^"\\\u0000-\u001f]*/y;
const ESCAPES = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };
const HALF = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

// The value that stands in these bytes.
export function read(bytes) {
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Refused("message", "not UTF-8");
  }
  const reader = new Reader(text);
  const value = reader.value(0);
  reader.blanks();
  if (reader.at !== text.length) reader.refuse();
  return value;
}

class Reader {
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  refuse(reason = "not JSON") {
    throw new Refused("message", `${reason}, at ${this.at}`);
  }

  blanks() {
    while (" \t\r\n".includes(this.text[this.at] ?? "x")) this.at++;
  }

  take(expected) {
    if (!this.text.startsWith(expected, this.at)) this.refuse();
    this.at += expected.length;
  }

  has(character) {
    this.blanks();
    if (this.text[this.at] !== character) return false;
    this.at++;
    return true;
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found === null) this.refuse();
    this.at += found[0].length;
    return found;
  }

  value(depth) {
    this.blanks();
    switch (this.text[this.at]) {
      case "{":
        return this.object(depth + 1);
      case "[":
        return this.array(depth + 1);
      case '"':
        return this.string();
      case "t":
        this.take("true");
        return true;
      case "f":
        this.take("false");
        return false;
      case "n":
        this.take("null");
        return null;
      default:
        return this.number();
    }
  }

  object(depth) {
    if (depth > DEPTH) this.refuse("nested too deep");
    this.take("{");
    const members = new Map();
    if (this.has("}")) return members;
    do {
      this.blanks();
      const name = this.string();
      if (members.has(name)) this.refuse("a member twice");
      if (!this.has(":")) this.refuse();
      members.set(name, this.value(depth));
    } while (this.has(","));
    if (!this.has("}")) this.refuse();
    return members;
  }

  array(depth) {
    if (depth > DEPTH) this.refuse("nested too deep");
    this.take("[");
    const items = [];
    if (this.has("]")) return items;
    do items.push(this.value(depth));
    while (this.has(","));
    if (!this.has("]")) this.refuse();
    return items;
  }

  string() {
    this.take('"');
    let whole = "";
    for (;;) {
      whole += this.match(PLAIN)[0];
      if (this.text[this.at] === '"') break;
      this.take("\\");
      const letter = this.text[this.at++];
      if (letter === "u") {
        const digits = this.text.slice(this.at, this.at + 4);
        if (!/^[0-9a-fA-F]{4}$/.test(digits)) this.refuse();
        whole += String.fromCharCode(parseInt(digits, 16));
        this.at += 4;
      } else {
        if (!Object.hasOwn(ESCAPES, letter ?? "")) this.refuse();
        whole += ESCAPES[letter];
      }
    }
    this.at++;
    if (HALF.test(whole)) this.refuse("half a surrogate pair");
    return whole;
  }

  number() {
    const [digits, fraction, exponent] = this.match(NUMBER);
    if (fraction === undefined && exponent === undefined) {
      const whole = BigInt(digits);
      if (whole >= -(2n ** 63n) && whole < 2n ** 64n) return whole;
    }
    const double = Number(digits);
    if (!Number.isFinite(double)) this.refuse("a number that no double can hold");
    return double;
  }
}

// The inverse: JSON in which whole numbers and others still differ.
export function write(value) {
  if (value instanceof Map) return `{${[...value].map(([name, each]) => `${write(name)}:${write(each)}`).join(",")}}`;
  if (Array.isArray(value)) return `[${value.map(write).join(",")}]`;
  if (typeof value === "bigint") return String(value);
  if (typeof value === "number") {
    const text = Object.is(value, -0) ? "-0" : String(value);
    return /[.e]/.test(text) ? text : `${text}.0`;
  }
  return JSON.stringify(value);
}
