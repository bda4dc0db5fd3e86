// The cluster as a graph. All of it is in the lists of nodes and of paths too; whoever does not see it misses nothing.

import cytoscape from './vendor/cytoscape-3.34.4.min.mjs';
import { classNames, colour, h, kind, ms, path as pathBadge, plural } from './dom.js';

/** Up to here positions are found by forces; beyond, in rings, which takes no time. */
const MAX_FORCES = 90;
/** Up to here names are written, and nodes that are away are shown. */
const MAX_NAMES = 150;
/** Beyond it edges are thin lines without round trips. */
const MAX_LABELS = 120;
/** Edges drawn; the best known ones, if there are more. */
const MAX_EDGES = 4000;

const SHAPES = {
  PublicOpen: 'star', PublicReachable: 'diamond', PublicUndefined: 'hexagon', Private: 'round-rectangle', Loopback: 'ellipse', Unreachable: 'triangle',
};

function sheet() {
  const text = colour('text');
  const card = colour('card');
  const style = [
    { selector: 'core', style: { 'active-bg-size': 0, 'selection-box-opacity': 0 } },
    { selector: 'node', style: { width: 22, height: 22, 'background-color': colour('unknown'), 'border-width': 2, 'border-color': card, 'overlay-opacity': 0 } },
    { selector: 'node.named', style: {
      label: 'data(name)', color: text, 'font-size': 11, 'font-family': 'system-ui, sans-serif', 'text-valign': 'bottom', 'text-margin-y': 4,
      'text-wrap': 'ellipsis', 'text-max-width': 110, 'text-background-color': card, 'text-background-opacity': .85, 'text-background-padding': 1 } },
    { selector: 'node.away', style: { 'background-opacity': .15, 'border-color': colour('unknown'), 'border-style': 'dashed', 'border-width': 1.5 } },
    { selector: 'edge', style: { width: 1.8, 'curve-style': 'straight', 'line-color': colour('direct'), 'overlay-opacity': 0 } },
    { selector: 'edge[path = "relay"]', style: { 'line-color': colour('relay'), 'line-style': 'dashed', 'line-dash-pattern': [7, 4] } },
    { selector: 'edge[path = "none"]', style: { 'line-color': colour('none'), 'line-style': 'dotted' } },
    { selector: 'edge.thin', style: { width: .7, opacity: .55, 'curve-style': 'haystack' } },
    { selector: 'edge.said', style: {
      label: 'data(rtt)', color: text, 'font-size': 10, 'font-family': 'system-ui, sans-serif', 'text-background-color': card, 'text-background-opacity': .9, 'text-background-padding': 2 } },
  ];
  for (const name of classNames) {
    style.push({ selector: `node[class = "${name}"]`, style: { shape: SHAPES[name], 'background-color': colour(classColour(name)) } });
  }
  return style;
}

function classColour(name) {
  return { PublicOpen: 'open', PublicReachable: 'reachable', PublicUndefined: 'undefined', Private: 'private', Loopback: 'loopback', Unreachable: 'unreachable' }[name];
}

/** The graph's card. `go` is called with the place that a node or an edge stands for. */
export function graph(store, go) {
  const canvas = h('div', {});
  const frame = h('div', { class: 'graph', role: 'img' }, canvas);
  const left = h('p', { class: 'soft' });
  const zoom = (title, sign, change) => h('button', { type: 'button', 'aria-label': title, onclick: change }, sign);
  const middle = () => ({ x: canvas.clientWidth / 2, y: canvas.clientHeight / 2 });
  const by = (factor) => () => cy.zoom({ level: cy.zoom() * factor, renderedPosition: middle() });
  const tools = h('div', { class: 'zoom push', role: 'group', 'aria-label': 'Size of the graph' },
    zoom('Smaller', '−', by(1 / 1.3)), zoom('Larger', '+', by(1.3)), zoom('All of it', '⤢', () => fit()));
  const legend = h('ul', { class: 'legend', 'aria-label': 'What the shapes mean' });
  const element = h('section', { class: 'card', 'aria-label': 'Graph' }, h('header', {}, h('h2', {}, 'Who meets whom'), left, tools), frame, legend);
  let cy = null;
  let layout = '';

  /** The library wants to be in the page before it begins. */
  function begin() {
    cy = cytoscape({ container: canvas, style: sheet(), layout: { name: 'preset' }, userZoomingEnabled: false, boxSelectionEnabled: false, autoungrabify: true,
      // A finger scrolls the page.
      userPanningEnabled: !matchMedia('(pointer: coarse)').matches, minZoom: .05, maxZoom: 3, hideEdgesOnViewport: true });
    cy.on('tap', 'node', (event) => go(`#/nodes/${event.target.id()}`));
    cy.on('tap', 'edge', (event) => go(`#/paths/${event.target.data('source')}/${event.target.data('target')}`));
    cy.on('mouseover', 'node, edge', () => { canvas.style.cursor = 'pointer'; });
    cy.on('mouseout', 'node, edge', () => { canvas.style.cursor = ''; });
    resize.observe(canvas);
  }

  /** All of it in sight. Where names are written the distances follow the room there is, and not the size of what is written. */
  function fit() {
    const count = cy.nodes().length;
    if (count === 0 || count > MAX_FORCES) return cy.fit(undefined, 24);
    const { x1, y1, w, h: tall } = cy.nodes().boundingBox({ includeLabels: false });
    // Few nodes are not torn apart.
    const most = 120 + 160 * Math.sqrt(count);
    const whole = [canvas.clientWidth - 150, canvas.clientHeight - 110];
    const room = whole.map((side) => Math.max(60, Math.min(side, most)));
    const [left, top] = [75 + (whole[0] - room[0]) / 2, 45 + (whole[1] - room[1]) / 2];
    cy.nodes().positions((node) => {
      const { x, y } = node.position();
      return { x: left + (w > 40 ? ((x - x1) / w) * room[0] : room[0] / 2), y: top + (tall > 40 ? ((y - y1) / tall) * room[1] : room[1] / 2) };
    });
    cy.viewport({ zoom: 1, pan: { x: 0, y: 0 } });
  }

  function show() {
    if (!cy) begin();
    const all = [...store.nodes.values()];
    const nodes = all.length <= MAX_NAMES ? all : all.filter((node) => node.presence);
    const known = new Set(nodes.map((node) => node.id));
    const paths = [...store.paths.values()].filter((path) => known.has(path.a) && known.has(path.b));
    const edges = paths.slice(0, MAX_EDGES);
    const named = nodes.length <= MAX_NAMES;
    const labelled = edges.length <= MAX_LABELS;
    const wanted = new Map();
    for (const node of nodes) {
      const classes = [named && 'named', !node.presence && 'away'].filter(Boolean).join(' ');
      wanted.set(node.id, { group: 'nodes', data: { id: node.id, name: node.name, class: node.class ?? '' }, classes });
    }
    for (const { a, b, path, rtt_ms: rtt } of edges) {
      const classes = [!labelled && 'thin', labelled && typeof rtt === 'number' && 'said'].filter(Boolean).join(' ');
      wanted.set(`${a} ${b}`, { group: 'edges', data: { id: `${a} ${b}`, source: a, target: b, path, rtt: ms(rtt) }, classes });
    }
    cy.batch(() => {
      cy.elements().filter((element) => !wanted.has(element.id())).remove();
      const fresh = [];
      for (const [id, element] of wanted) {
        const there = cy.getElementById(id);
        if (there.empty()) fresh.push(element);
        else there.data(element.data).classes(element.classes);
      }
      cy.add(fresh);
    });
    arrange(nodes, edges);
    const kinds = ['direct', 'relay', 'none'].map((kind) => paths.filter((path) => path.path === kind).length);
    const words = `${plural(nodes.length, 'node')}, ${kinds[0]} direct, ${kinds[1]} relayed, ${kinds[2]} without a path`;
    frame.setAttribute('aria-label', `Graph of the cluster: ${words}. The lists of nodes and of paths say the same.`);
    left.textContent = paths.length > edges.length ? `the first ${edges.length} of ${paths.length} paths` : '';
    const classes = classNames.filter((name) => nodes.some((node) => node.class === name));
    legend.replaceChildren(...classes.map((name) => h('li', {}, kind(name))), ...['direct', 'relay', 'none'].map((name) => h('li', {}, pathBadge(name))));
  }

  /** Finds places for the nodes, if there are others than before. The same cluster looks the same each time. */
  function arrange(nodes, edges) {
    const now = `${nodes.map((node) => node.id).sort().join()} ${nodes.length <= MAX_FORCES ? edges.length : ''}`;
    if (now === layout) return;
    layout = now;
    const degree = new Map();
    for (const { a, b } of edges) for (const id of [a, b]) degree.set(id, (degree.get(id) ?? 0) + 1);
    const sort = (a, b) => (degree.get(b.id()) ?? 0) - (degree.get(a.id()) ?? 0) || (a.id() < b.id() ? -1 : 1);
    if (nodes.length > MAX_FORCES) {
      const levels = Math.max(4, Math.ceil(Math.sqrt(nodes.length / 3)));
      const rank = new Map(cy.nodes().sort(sort).map((node, at) => [node.id(), at]));
      cy.layout({ name: 'concentric', animate: false, padding: 24, minNodeSpacing: 6, avoidOverlap: true, equidistant: false,
        concentric: (node) => levels - Math.floor(Math.sqrt(rank.get(node.id()) / 3)), levelWidth: () => 1 }).run();
    } else {
      cy.layout({ name: 'circle', animate: false, fit: false, sort }).run();
      if (edges.length) cy.layout({ name: 'cose', animate: false, randomize: false, fit: false, nodeRepulsion: () => 400_000, idealEdgeLength: () => 120, edgeElasticity: () => 90, gravity: .3, numIter: 1500 }).run();
    }
    fit();
  }

  const resize = new ResizeObserver(() => {
    cy.resize();
    fit();
  });
  return { element, show, theme: () => cy?.style(sheet()), end: () => { resize.disconnect(); cy?.destroy(); } };
}
