// Owns reading JSON without losing anything: number spelling, key order, keys such as `__proto__`.
// JSON.parse rounds integers above 2^53, which would show a wrong id; here a number keeps its text.

/** A number as the producer spelled it. */
export class Num {
  constructor(source) {
    this.source = source;
  }
  toString() {
    return this.source;
  }
}

/** Reads a JSON text: objects become Maps, numbers become Nums, the rest is as in JSON.parse. */
export function read(text) {
  const scanner = new Scanner(text);
  const value = readValue(scanner);
  if (scanner.next()) scanner.fail();
  return value;
}

/** The text of one member of the outermost object, or undefined. */
export function memberText(text, key) {
  const scanner = new Scanner(text);
  scanner.expect('{');
  while (scanner.next() && scanner.kind === 'string') {
    const name = decode(scanner);
    scanner.expect(':');
    const value = skipValue(scanner);
    if (name === key) return value;
    if (!scanner.next() || scanner.kind !== ',') break;
  }
  return undefined;
}

/** The texts of the elements of the outermost array. */
export function elementTexts(text) {
  const scanner = new Scanner(text);
  scanner.expect('[');
  const texts = [];
  if (scanner.peek() === ']') return texts;
  do texts.push(skipValue(scanner));
  while (scanner.next() && scanner.kind === ',');
  return texts;
}

/** Splits a JSON text into `[kind, text]` pieces that, joined, are the same JSON indented by two spaces. */
export function pretty(text) {
  const scanner = new Scanner(text);
  const pieces = [];
  const line = (depth) => pieces.push(['space', '\n' + '  '.repeat(depth)]);
  let depth = 0;
  while (scanner.next()) {
    const { kind } = scanner;
    const opens = kind === '{' || kind === '[';
    const closes = kind === '}' || kind === ']';
    if (closes) line(--depth);
    pieces.push([kind === 'string' && scanner.peek() === ':' ? 'key' : kind, scanner.source()]);
    if (opens && (scanner.peek() === '}' || scanner.peek() === ']')) {
      scanner.next();
      pieces.push([scanner.kind, scanner.source()]);
    } else if (opens) line(++depth);
    else if (kind === ',') line(depth);
    else if (kind === ':') pieces.push(['space', ' ']);
  }
  return pieces;
}

/** Walks the tokens of a JSON text. `kind` is the punctuation itself, or string, number, word. */
class Scanner {
  constructor(text) {
    this.text = text;
    this.end = 0;
    this.start = 0;
    this.kind = '';
  }

  /** Moves to the next token; false at the end. */
  next() {
    const char = this.peek();
    this.start = this.end;
    if (char === '') return false;
    if ('{}[]:,'.includes(char)) this.take(char, this.start + 1);
    else if (char === '"') this.take('string', this.closingQuote() + 1);
    else this.takeRun();
    return true;
  }

  /** The first character of the next token, without moving past it. */
  peek() {
    while (' \n\r\t'.includes(this.text[this.end] ?? '.')) this.end += 1;
    return this.text[this.end] ?? '';
  }

  take(kind, end) {
    this.kind = kind;
    this.end = end;
  }

  takeRun() {
    RUN.lastIndex = this.start;
    const run = RUN.exec(this.text)?.[0];
    if (run === undefined) this.fail();
    this.take(/^[a-z]/.test(run) ? 'word' : 'number', this.start + run.length);
  }

  // By hand and not by pattern: a string may be a megabyte, and a pattern keeps a stack.
  closingQuote() {
    let at = this.start + 1;
    while (at < this.text.length) {
      const code = this.text.charCodeAt(at);
      if (code === QUOTE) return at;
      at += code === BACKSLASH ? 2 : 1;
    }
    return this.fail();
  }

  source() {
    return this.text.slice(this.start, this.end);
  }

  expect(kind) {
    if (!this.next() || this.kind !== kind) this.fail();
  }

  fail() {
    throw new SyntaxError(`unexpected JSON at ${this.start}`);
  }
}

const QUOTE = 34;
const BACKSLASH = 92;
const RUN = /[-+.0-9A-Za-z]+/y;
const WORDS = new Map([['true', true], ['false', false], ['null', null]]);

function readValue(scanner) {
  if (!scanner.next()) scanner.fail();
  switch (scanner.kind) {
    case '{': return readObject(scanner);
    case '[': return readArray(scanner);
    case 'string': return decode(scanner);
    case 'number': return new Num(scanner.source());
    case 'word': if (WORDS.has(scanner.source())) return WORDS.get(scanner.source());
  }
  return scanner.fail();
}

function readObject(scanner) {
  const object = new Map();
  if (scanner.peek() === '}') return scanner.next() && object;
  do {
    scanner.expect('string');
    const key = decode(scanner);
    scanner.expect(':');
    object.set(key, readValue(scanner));
  } while (scanner.next() && scanner.kind === ',');
  if (scanner.kind !== '}') scanner.fail();
  return object;
}

function readArray(scanner) {
  const array = [];
  if (scanner.peek() === ']') return scanner.next() && array;
  do array.push(readValue(scanner));
  while (scanner.next() && scanner.kind === ',');
  if (scanner.kind !== ']') scanner.fail();
  return array;
}

function decode(scanner) {
  const source = scanner.source();
  return source.includes('\\') ? JSON.parse(source) : source.slice(1, -1);
}

function skipValue(scanner) {
  if (!scanner.next()) scanner.fail();
  const { start } = scanner;
  let depth = 0;
  for (;;) {
    if (scanner.kind === '{' || scanner.kind === '[') depth += 1;
    else if (scanner.kind === '}' || scanner.kind === ']') depth -= 1;
    if (depth === 0) return scanner.text.slice(start, scanner.end);
    if (!scanner.next()) scanner.fail();
  }
}
