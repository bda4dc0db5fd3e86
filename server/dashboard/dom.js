// Elements, words and numbers. What a node or a server says becomes text here and never markup: the page's policy (trusted types)
// forbids the other way altogether.

const SVG = 'http://www.w3.org/2000/svg';

/** An element: attributes, listeners (`onclick`), and children, which are elements or text. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Puts these children in the place of all that were there. Whoever has the keyboard on a link in there keeps his place. */
export function set(element, ...children) {
  const held = element.contains(document.activeElement) ? document.activeElement.getAttribute('href') : null;
  element.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  if (held) [...element.querySelectorAll('a')].find((link) => link.getAttribute('href') === held)?.focus({ preventScroll: true });
}

const SHAPES = {
  PublicOpen: () => s('path', { d: 'M6.500 0 8.400 4.600 13 5 9.500 8.200 10.600 13 6.500 10.400 2.400 13 3.500 8.200 0 5 4.600 4.600Z' }),
  PublicReachable: () => s('path', { d: 'M6.500 0 13 6.500 6.500 13 0 6.500Z' }),
  PublicUndefined: () => s('path', { d: 'M3.500 .5h6L13 6.500l-3.500 6h-6L0 6.500Z' }),
  Private: () => s('rect', { x: 1, y: 1, width: 11, height: 11, rx: 2.5 }),
  Loopback: () => s('circle', { cx: 6.5, cy: 6.5, r: 5.5 }),
  Unreachable: () => s('path', { d: 'M6.500 1 13 12.500H0Z' }),
  unknown: () => s('circle', { cx: 6.5, cy: 6.5, r: 3.5 }),
};

const CLASSES = {
  PublicOpen: 'Public, open to strangers',
  PublicReachable: 'Public, reachable',
  PublicUndefined: 'Public, not proven',
  Private: 'Private',
  Loopback: 'Loopback',
  Unreachable: 'Unreachable',
};
const DASHES = { direct: undefined, relay: '6 3', none: '1.500 4' };
const PATHS = { direct: 'direct', relay: 'relayed', none: 'no path' };

export const classNames = Object.keys(CLASSES);

/** A node's class: a shape and its words. */
export function kind(name) {
  const known = CLASSES[name] ? name : 'unknown';
  const shape = SHAPES[known]();
  shape.setAttribute('class', `c-${known}`);
  const box = s('svg', { class: 'shape', viewBox: '0 0 13 13', 'aria-hidden': 'true' }, shape);
  return h('span', { class: 'what' }, box, CLASSES[name] ?? (name ? String(name) : 'not judged yet'));
}

/** A kind of path: a line and its word. */
export function path(name) {
  const known = PATHS[name] ? name : 'none';
  const line = s('path', { d: 'M0 6.500h22', class: `stroke p-${known}`, 'stroke-dasharray': DASHES[known] });
  return h('span', { class: 'what' }, s('svg', { class: 'shape line', viewBox: '0 0 22 13', 'aria-hidden': 'true' }, line), PATHS[known]);
}

const STATES = {
  good: () => s('circle', { cx: 6.5, cy: 6.5, r: 5, class: 's-good' }),
  warn: () => s('path', { d: 'M6.500 1 13 12.500H0Z', class: 's-warn' }),
  bad: () => s('rect', { x: 1.5, y: 1.5, width: 10, height: 10, class: 's-bad' }),
  idle: () => s('path', { d: 'M1 5h11v3H1Z', class: 's-idle' }),
};

/** How something fares: a shape and its words. */
export function state(how, ...words) {
  return h('span', { class: 'what' }, s('svg', { class: 'shape', viewBox: '0 0 13 13', 'aria-hidden': 'true' }, STATES[how]()), h('span', {}, words));
}

/** Milliseconds, as many digits as say something. */
export function ms(value) {
  if (typeof value !== 'number' || !Number.isFinite(value)) return '–';
  if (value >= 10_000) return `${(value / 1000).toFixed(0)} s`;
  if (value >= 1_000) return `${(value / 1000).toFixed(1)} s`;
  return `${value >= 10 ? value.toFixed(0) : value.toFixed(value >= 1 ? 1 : 2)} ms`;
}

export function bytes(value) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let at = 0;
  while (value >= 1000 && at < units.length - 1) { value /= 1000; at += 1; }
  return `${at === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[at]}`;
}

export function count(value) {
  return String(value).replace(/\B(?=(\d{3})+$)/g, '\u202f');
}

export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

export function span(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return plural(Math.floor(seconds / 86_400), 'day');
}

/** How long ago, with the very time as its title. `skew` is how far the server's clock is ahead of this one. */
export function ago(unixMs, skew = 0) {
  if (!unixMs) return '–';
  const then = new Date(unixMs);
  return h('time', { datetime: then.toISOString(), title: then.toLocaleString() }, `${span((Date.now() + skew - unixMs) / 1000)} ago`);
}

export function clock(unixMs) {
  const then = new Date(unixMs);
  return h('time', { datetime: then.toISOString(), title: then.toLocaleString() }, then.toTimeString().slice(0, 8));
}

/** An id's beginning; the whole of it is its title. */
export function short(id) {
  return h('code', { title: id }, `${id.slice(0, 8)}…`);
}

export function card(title, extra, ...body) {
  return h('section', { class: 'card', 'aria-label': title }, h('header', {}, h('h2', {}, title), extra), body);
}

export function facts(rows) {
  return h('dl', { class: 'facts' }, rows.filter(Boolean).map(([name, ...value]) => [h('dt', {}, name), h('dd', {}, value)]));
}

/** A colour of the sheet, as the canvas wants it. */
export function colour(name) {
  const probe = h('span', {});
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
