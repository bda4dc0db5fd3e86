// Charts of round trips.

import { colour, h, ms } from './dom.js';

/** Nodes in the heat map; those with the most paths, if there are more. */
const MAX_NODES = 48;
/** Where the scale begins and ends, in milliseconds. It is logarithmic. */
const SCALE = [0.2, 500];
/** Squares from here on have their number written in. */
const WRITTEN_PX = 30;

const STOPS = [[13, 8, 135], [126, 3, 168], [204, 71, 120], [248, 149, 64], [240, 249, 33]];

/** Short is dark and long is bright, in even steps of lightness, so that it is read without hues as well. */
function heat(rtt) {
  const [low, high] = SCALE.map(Math.log);
  const at = Math.min(1, Math.max(0, (Math.log(Math.max(rtt, 1e-3)) - low) / (high - low))) * (STOPS.length - 1);
  const first = Math.min(STOPS.length - 2, Math.floor(at));
  return STOPS[first].map((from, n) => Math.round(from + (STOPS[first + 1][n] - from) * (at - first)));
}

const css = ([r, g, b]) => `rgb(${r},${g},${b})`;
const isBright = ([r, g, b]) => r * .299 + g * .587 + b * .114 > 140;

/** The scale below the map. */
export function scale() {
  const canvas = h('canvas', { width: 140, height: 10, 'aria-hidden': 'true' });
  const draw = canvas.getContext('2d');
  for (let x = 0; x < 140; x += 1) {
    draw.fillStyle = css(heat(SCALE[0] * (SCALE[1] / SCALE[0]) ** (x / 139)));
    draw.fillRect(x, 0, 1, 10);
  }
  return h('p', { class: 'scale' }, ms(SCALE[0]), canvas, ms(SCALE[1]));
}

/** Which nodes the map shows, in its order. */
export function chosen(store) {
  const degree = new Map();
  for (const { a, b, rtt_ms: rtt } of store.paths.values()) {
    if (typeof rtt === 'number') for (const id of [a, b]) degree.set(id, (degree.get(id) ?? 0) + 1);
  }
  const ids = [...degree.keys()].sort((a, b) => degree.get(b) - degree.get(a) || (a < b ? -1 : 1)).slice(0, MAX_NODES);
  return { ids: ids.sort((a, b) => store.name(a).localeCompare(store.name(b))), of: degree.size };
}

/** A map with a square for each two nodes: uPlot has the frame and the axes. `say` is told what is under the pointer. */
export function heatMap(box, ids, store, say) {
  const names = ids.map((id) => store.name(id));
  const index = new Map(ids.map((id, at) => [id, at]));
  const cells = [];
  for (const { a, b, path, rtt_ms: rtt } of store.paths.values()) {
    const [x, y] = [index.get(a), index.get(b)];
    if (x !== undefined && y !== undefined && typeof rtt === 'number') cells.push([x, y, rtt, path], [y, x, rtt, path]);
  }
  const found = new Map(cells.map(([x, y, rtt, path]) => [`${x} ${y}`, [rtt, path]]));
  const text = colour('soft');
  const line = colour('line');
  const width = Math.max(260, Math.min(box.clientWidth - 24, 1180));
  const edge = Math.min(150, 16 + 7 * Math.max(...names.map((name) => Math.min(name.length, 18))));
  const height = Math.max(180, Math.min(width, 30 + edge + 32 * ids.length));
  const cut = (name) => (name.length > 18 ? `${name.slice(0, 17)}…` : name);
  const step = Math.ceil(ids.length / Math.max(1, Math.floor((height - edge) / 14)));
  const axis = (side, size, more) => ({ side, size, stroke: text, font: '11px system-ui, sans-serif', grid: { show: false }, ticks: { show: false }, gap: 6,
    splits: () => ids.map((_, at) => at).filter((at) => at % step === 0), values: (_, splits) => splits.map((at) => cut(names[at])), ...more });
  function draw(plot) {
    const { ctx } = plot;
    const side = Math.abs(plot.valToPos(1, 'x', true) - plot.valToPos(0, 'x', true));
    const tall = Math.abs(plot.valToPos(1, 'y', true) - plot.valToPos(0, 'y', true));
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.textAlign = 'center';
    ctx.textBaseline = 'middle';
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    ctx.fillStyle = line;
    for (let at = 0; at < ids.length; at += 1) square(plot.valToPos(at, 'x', true), plot.valToPos(at, 'y', true));
    for (const [x, y, rtt, path] of cells) {
      const rgb = heat(rtt);
      const [left, top] = [plot.valToPos(x, 'x', true), plot.valToPos(y, 'y', true)];
      ctx.fillStyle = css(rgb);
      square(left, top);
      if (Math.min(side, tall) < WRITTEN_PX * ratio) continue;
      ctx.fillStyle = isBright(rgb) ? '#000' : '#fff';
      ctx.fillText(`${rtt >= 10 ? rtt.toFixed(0) : rtt.toFixed(1)}${path === 'relay' ? ' R' : ''}`, left, top);
    }
    ctx.restore();
    function square(x, y) {
      ctx.fillRect(x - side / 2 + ratio / 2, y - tall / 2 + ratio / 2, side - ratio, tall - ratio);
    }
  }
  function move(plot) {
    const { left, top } = plot.cursor;
    if (left === undefined || left < 0) return say('');
    const [x, y] = [Math.round(plot.posToVal(left, 'x')), Math.round(plot.posToVal(top, 'y'))];
    const there = found.get(`${x} ${y}`);
    say(there ? `${names[x]} and ${names[y]}: ${ms(there[0])}, ${there[1] === 'relay' ? 'relayed' : there[1]}` : '');
  }
  const whole = [-0.5, ids.length - 0.5];
  return new window.uPlot({
    width, height, legend: { show: false }, cursor: { drag: { x: false, y: false }, points: { show: false }, x: false, y: false },
    scales: { x: { time: false, range: () => whole }, y: { dir: -1, range: () => whole } },
    axes: [axis(2, edge, { rotate: -90 }), axis(3, edge)],
    series: [{}, { paths: () => null, points: { show: false } }],
    hooks: { draw: [draw], setCursor: [move] },
  }, [ids.map((_, at) => at), ids.map((_, at) => at)], box);
}

/** How many paths have which round trip, direct and relayed ones apart. */
export function spread(box, paths) {
  const edges = [0, .5, 1, 2, 5, 10, 20, 50, 100, 200, 500];
  const fill = (kind) => edges.map((from, at) => paths.filter((path) => path.path === kind && typeof path.rtt_ms === 'number'
    && path.rtt_ms >= from && path.rtt_ms < (edges[at + 1] ?? Infinity)).length);
  const direct = fill('direct');
  const relayed = fill('relay');
  const text = colour('soft');
  const bars = window.uPlot.paths.bars;
  const font = '11px system-ui, sans-serif';
  const series = (label, name, align, dash) => ({ label, stroke: colour(name), fill: colour(name), width: dash ? 2 : 0, paths: bars({ size: [.42, 60], align }), points: { show: false } });
  return new window.uPlot({
    width: Math.max(260, Math.min(box.clientWidth - 24, 900)), height: 220, legend: { show: false }, cursor: { show: false },
    scales: { x: { time: false, range: () => [-.6, edges.length - .4] }, y: { range: (_, low, high) => [0, Math.max(high, 4)] } },
    axes: [
      { stroke: text, font, grid: { show: false }, ticks: { show: false }, splits: () => edges.map((_, at) => at), values: (_, at) => at.map((n) => (n === edges.length - 1 ? `≥${edges[n]}` : `${edges[n]}`)) },
      { stroke: text, font, grid: { stroke: colour('line'), width: 1 }, ticks: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], size: 44 },
    ],
    series: [{}, series('direct', 'direct', -1), series('relayed', 'relay', 1)],
  }, [edges.map((_, at) => at), direct, relayed], box);
}

/** The middle one, the one that nine of ten are below, and the last, of a list of numbers. */
export function quantiles(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (part) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))];
  return sorted.length ? { middle: at(.5), ninth: at(.9), last: sorted.at(-1) } : null;
}
