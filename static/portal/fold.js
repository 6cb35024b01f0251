/* Lines that several ranks have written alike, as one: a group stands where its first line does, and each rank is in it
   once. So a traceback of six ranks is one, however their lines lie. */
"use strict";

// biome-ignore lint/correctness/noUnusedVariables: window.js uses it
class Folds {
  static ROWS = 2000; // between the first line of a group and one that joins it
  static TIME = 10_000; // ms between them

  constructor() {
    this.count = 0; // of rows so far
    this.kinds = new Map(); // stream and text → its groups that others may join
  }

  /* The group of a line that has ended, which may be of it alone; null for what no rank wrote. */
  join(row) {
    this.count++;
    if (row.rank === "" || row.line === null) return null;
    if (this.count % (4 * Folds.ROWS) === 0) this.forget();
    const key = `${row.stream} ${textOf(row)}`;
    let kind = this.kinds.get(key);
    if (!kind) {
      kind = { first: 0, groups: [], next: new Map() };
      this.kinds.set(key, kind);
    }
    while (kind.groups.length && this.isOver(kind.groups[0], row)) {
      kind.groups.shift();
      kind.first++;
    }
    // The second time that a rank writes it, it joins the second group.
    const at = Math.max(kind.next.get(row.rank) ?? 0, kind.first);
    kind.next.set(row.rank, at + 1);
    let group = kind.groups[at - kind.first];
    if (!group) {
      group = { count: this.count, rows: [], open: null };
      kind.groups.push(group);
    }
    group.rows.push(row);
    return group;
  }

  isOver(group, row) {
    return this.count - group.count > Folds.ROWS || Math.abs(row.ms - group.rows[0]?.ms) > Folds.TIME;
  }

  forget() {
    for (const [key, kind] of this.kinds) {
      const last = kind.groups.at(-1);
      if (!last || this.count - last.count > Folds.ROWS) this.kinds.delete(key);
    }
  }
}

function textOf(row) {
  return row.parts.length === 1 ? row.parts[0][1] : row.parts.map((part) => part[1]).join("");
}

/* Names of ranks in few words: 0–5, 9, 1.2. */
// biome-ignore lint/correctness/noUnusedVariables: window.js uses it
function ranges(names) {
  const whole = names.filter((name) => !name.includes("."));
  const numbers = whole.map(Number).sort((a, b) => a - b);
  const parts = [];
  for (let i = 0; i < numbers.length; ) {
    let k = i;
    while (numbers[k + 1] === numbers[k] + 1) k++;
    parts.push(k - i > 1 ? `${numbers[i]}–${numbers[k]}` : numbers.slice(i, k + 1).join(", "));
    i = k + 1;
  }
  return [...parts, ...names.filter((name) => name.includes("."))].join(", ");
}
