// A table of any length: rows that are not in sight are not in the page.

import { h, set, plural } from './dom.js';

/** As in the sheet. */
const ROW = 38;
/** Rows beyond both ends of what is in sight. */
const MARGIN = 12;
/** Up to here all rows are in the page, so that it can be searched and printed. */
const WHOLE = 60;

/**
 * `columns`: { title, cell(row), right, minor, cut }. `show` puts these rows in the place of those before.
 */
export function table(label, columns, empty) {
  const body = h('tbody', {});
  const heads = columns.map((column) => h('th', { scope: 'col', class: css(column) }, column.title));
  const grid = h('table', {}, h('caption', { class: 'unseen' }, label), h('thead', {}, h('tr', {}, heads)), body);
  const nothing = h('p', { class: 'empty' }, empty);
  const frame = h('div', { class: 'frame', tabindex: '0', role: 'region', 'aria-label': `${label}, scrollable` }, grid);
  const element = h('div', {}, frame, nothing);
  let rows = [];
  let shown = '';

  function draw(force) {
    const whole = rows.length <= WHOLE;
    const first = whole ? 0 : Math.max(0, Math.floor(frame.scrollTop / ROW) - MARGIN);
    const last = whole ? rows.length : Math.min(rows.length, Math.ceil((frame.scrollTop + frame.clientHeight) / ROW) + MARGIN);
    const window = `${first}-${last}`;
    if (!force && window === shown) return;
    shown = window;
    const lines = rows.slice(first, last).map((row, at) => h('tr', { class: row.away ? 'away' : undefined, 'aria-rowindex': first + at + 2 },
      columns.map((column) => h('td', { class: css(column) }, column.cell(row)))));
    set(body, filler(first, columns.length), lines, filler(rows.length - last, columns.length));
  }

  frame.addEventListener('scroll', () => draw(false), { passive: true });
  return {
    element,
    show(next) {
      rows = next;
      grid.setAttribute('aria-rowcount', String(rows.length + 1));
      frame.setAttribute('aria-label', `${label}, ${plural(rows.length, 'row')}, scrollable`);
      frame.hidden = rows.length === 0;
      nothing.hidden = rows.length !== 0;
      draw(true);
    },
  };
}

function css(column) {
  return [column.right && 'right', column.minor && 'minor', column.cut && 'cut'].filter(Boolean).join(' ') || undefined;
}

function filler(rows, columns) {
  if (rows <= 0) return null;
  const cell = h('td', { colspan: columns });
  cell.style.height = `${rows * ROW}px`;
  return h('tr', { class: 'filler', 'aria-hidden': 'true' }, cell);
}
