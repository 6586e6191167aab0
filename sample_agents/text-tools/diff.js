"use strict";
// A smallest line diff: Myers, "An O(ND) difference algorithm and its variations" (1986), in the form that needs
// memory in proportion to the lines and not to the differences (section 4b): the middle of a shortest path is found
// from both ends, and each half is solved in turn.

/** The unified diff of two texts, as `diff -u` and `patch` write and read it; "" where they are equal. */
function unifiedDiff(before, after, { context, beforeName, afterName }) {
  const [a, b] = [splitLines(before), splitLines(after)];
  const changes = changedRanges(a, b);
  if (changes.length === 0) return "";
  const hunks = groupChanges(changes, context).map((group) => formatHunk(a, b, group, context));
  return `--- ${beforeName}\n+++ ${afterName}\n${hunks.join("")}`;
}

/** Lines with their line ends, so that a missing last one is a difference. */
function splitLines(text) {
  return text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
}

/** What differs: [start, end, start, end] (in a, then in b), in order, each replaced by the other. */
function changedRanges(a, b) {
  const numbers = new Map();
  const intern = (line) => numbers.get(line) ?? (numbers.set(line, numbers.size), numbers.size - 1);
  const [left, right] = [Int32Array.from(a, intern), Int32Array.from(b, intern)];
  const size = 2 * Math.ceil((a.length + b.length) / 2) + 3;
  const reach = { forward: new Int32Array(size), backward: new Int32Array(size) };
  const ranges = [];
  const parts = [[0, a.length, 0, b.length]]; // a stack: the leftmost part is on top
  while (parts.length > 0) {
    const [a0, a1, b0, b1] = trimmed(left, right, parts.pop());
    if (a0 < a1 && b0 < b1) {
      const [x, y, u, v] = middleSnake(left, right, a0, a1, b0, b1, reach);
      parts.push([u, a1, v, b1], [a0, x, b0, y]);
    } else if (a0 < a1 || b0 < b1) {
      addRange(ranges, [a0, a1, b0, b1]);
    }
  }
  return ranges;
}

/** A part without the lines that are equal at its start and at its end. */
function trimmed(left, right, [a0, a1, b0, b1]) {
  while (a0 < a1 && b0 < b1 && left[a0] === right[b0]) { a0++; b0++; }
  while (a0 < a1 && b0 < b1 && left[a1 - 1] === right[b1 - 1]) { a1--; b1--; }
  return [a0, a1, b0, b1];
}

function addRange(ranges, range) {
  const last = ranges.at(-1);
  if (last && last[1] === range[0] && last[3] === range[2]) [last[1], last[3]] = [range[1], range[3]];
  else ranges.push(range);
}

/**
 * The run of equal lines (from (x, y) to (u, v), perhaps empty) in the middle of a shortest path through a part.
 * `forward[k]` is the furthest line of `left` reached on the diagonal k = x - y from the start in d steps;
 * `backward[k]` likewise from the end, where diagonals are counted from the end's own.
 */
function middleSnake(left, right, a0, a1, b0, b1, { forward, backward }) {
  const [n, m] = [a1 - a0, b1 - b0];
  const [delta, middle] = [n - m, (forward.length - 1) >> 1];
  const odd = (delta & 1) !== 0;
  forward[middle + 1] = 0;
  backward[middle + 1] = 0;
  for (let d = 0; ; d++) {
    for (let k = -d; k <= d; k += 2) {
      let x = furthest(forward, middle, k, d);
      const start = x;
      while (x < n && x - k < m && x - k >= 0 && left[a0 + x] === right[b0 + x - k]) x++;
      forward[middle + k] = x;
      const other = delta - k;
      if (odd && Math.abs(other) < d && x + backward[middle + other] >= n) {
        return [a0 + start, b0 + start - k, a0 + x, b0 + x - k];
      }
    }
    for (let k = -d; k <= d; k += 2) {
      let x = furthest(backward, middle, k, d);
      const start = x;
      while (x < n && x - k < m && x - k >= 0 && left[a1 - 1 - x] === right[b1 - 1 - x + k]) x++;
      backward[middle + k] = x;
      const other = delta - k;
      if (!odd && Math.abs(other) <= d && x + forward[middle + other] >= n) {
        return [a1 - x, b1 - x + k, a1 - start, b1 - start + k];
      }
    }
  }
}

/** One step more: down from the diagonal above, or right from the one below, whichever gets further. */
function furthest(reach, middle, k, d) {
  const down = reach[middle + k + 1];
  const right = reach[middle + k - 1] + 1;
  return k === -d || (k !== d && right - 1 < down) ? down : right;
}

/** Changes whose context would touch or overlap, together. */
function groupChanges(changes, context) {
  const groups = [];
  for (const change of changes) {
    const last = groups.at(-1)?.at(-1);
    if (last && change[0] - last[1] <= 2 * context) groups.at(-1).push(change);
    else groups.push([change]);
  }
  return groups;
}

function formatHunk(a, b, group, context) {
  const [first, last] = [group[0], group.at(-1)];
  const before = Math.min(context, first[0]);
  const after = Math.min(context, a.length - last[1]);
  let body = "";
  let place = first[0] - before;
  for (const [a0, a1, b0, b1] of group) {
    body += prefixed(" ", a.slice(place, a0)) + prefixed("-", a.slice(a0, a1)) + prefixed("+", b.slice(b0, b1));
    place = a1;
  }
  body += prefixed(" ", a.slice(place, place + after));
  const head = [span(first[0] - before, last[1] + after), span(first[2] - before, last[3] + after)];
  return `@@ -${head[0]} +${head[1]} @@\n${body}`;
}

/** A range of lines as a hunk's head has it: from 1, no length where it is 1, an empty one after the line before. */
function span(start, end) {
  const length = end - start;
  if (length === 1) return `${start + 1}`;
  return `${length === 0 ? start : start + 1},${length}`;
}

function prefixed(sign, lines) {
  const marked = lines.map((line) => (line.endsWith("\n") ? line : `${line}\n\\ No newline at end of file\n`));
  return marked.map((line) => sign + line).join("");
}

module.exports = { changedRanges, unifiedDiff };
