// Owns which orders are the newest: a list of at most ROWS_MAX rows, changed by events.
// It must not know the page: it is applied at the speed of the events, and drawn at the speed of the screen.
import { memberText, read } from './json.js';

export const ROWS_MAX = 50;

export class Newest {
  /** Newest first. A row is `{ id, version, text, flash, beat }`; `beat` grows with each change worth a flash. */
  rows = [];
  #byId = new Map();
  #full = false;

  has(row) {
    return this.#byId.get(row.id) === row;
  }

  /** True when deletions have emptied a list that had more orders behind it. */
  get isThin() {
    return this.#full && this.rows.length < ROWS_MAX / 2;
  }

  /** Takes the list as the server has it. Rows that stay keep their identity, so their elements stay too. */
  replace(texts) {
    const known = this.#byId;
    this.#byId = new Map();
    this.rows = texts.slice(0, ROWS_MAX).map((text) => {
      const id = idOf(text);
      const old = known.get(id);
      const row = old && textOf(old) === text ? old : Object.assign(old ?? newRow(id), { text, version: undefined });
      this.#byId.set(id, row);
      return row;
    });
    this.#full = texts.length >= ROWS_MAX;
  }

  apply({ id, version, kind, data }) {
    const row = this.#byId.get(id);
    if (row && isOlder(version, row.version)) return;
    if (kind === 'deleted') this.#remove(row);
    else if (kind === 'created') this.#putOnTop(row ?? newRow(id), version, data);
    else if (row) change(row, 'updated', version, data);
  }

  #putOnTop(row, version, data) {
    this.#remove(row);
    change(row, 'created', version, data);
    this.#byId.set(row.id, row);
    if (this.rows.unshift(row) <= ROWS_MAX) return;
    this.#byId.delete(this.rows.pop().id);
    this.#full = true;
  }

  #remove(row) {
    if (!row || !this.has(row)) return;
    this.#byId.delete(row.id);
    this.rows.splice(this.rows.indexOf(row), 1);
  }
}

/** The exact text of a row's order. Taken out of the event only when drawn: most rows of a burst never are. */
export function textOf(row) {
  row.text ??= memberText(row.data, 'order') ?? '';
  return row.text;
}

const newRow = (id) => ({ id, version: undefined, text: '', data: '', flash: '', beat: 0 });

// A replayed event carries a version already shown: it is taken again, but is not worth a flash.
function change(row, flash, version, data) {
  if (row.version === undefined || row.version !== version) {
    row.flash = flash;
    row.beat += 1;
  }
  Object.assign(row, { version, data, text: undefined });
}

const isOlder = (version, shown) => shown !== undefined && version < shown;

function idOf(text) {
  const id = memberText(text, 'order_uid') ?? memberText(text, 'order_id');
  return id === undefined ? '' : String(read(id));
}
