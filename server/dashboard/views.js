// The pages. Each is a function of the store and the words of its route; it gives its title, its element, what to do when something
// changed (`show`), and, if need be, what to do on another theme (`theme`) and at its end (`end`).

import { get, seg } from './api.js';
import { chosen, heatMap, quantiles, scale, spread } from './charts.js';
import { ago, bytes, card, clock, count, facts, h, kind, ms, path, plural, set, short, span, state } from './dom.js';
import { graph } from './graph.js';
import { pair } from './store.js';
import { table } from './table.js';

/** How often a page about one or two nodes asks for what no event tells of. */
const ASK_MS = 5000;
const SEEDS = { up: 'good', unverified: 'idle', down: 'bad', refused: 'bad' };

const nodeLink = (store, id) => h('a', { href: `#/nodes/${id}` }, store.name(id));
const pairLink = (a, b, ...words) => h('a', { href: `#/paths/${a}/${b}` }, ...words);
const head = (title, ...more) => h('div', { class: 'head' }, h('h1', {}, title), ...more);
const depth = (nats) => (!nats ? 'not known' : nats.at_most === 1 ? `one${nats.proven ? '' : ', it seems'}` : `${nats.at_most} at most`);
const yes = (value) => (value === null || value === undefined ? 'not known' : value ? 'yes' : 'no');

function presence(node, skew) {
  return node.presence ? state('good', 'here, ', span((Date.now() + skew - node.presence.since_unix_ms) / 1000))
    : state('idle', 'away, seen ', ago(node.last_seen_unix_ms, skew));
}

/** What an event says, in words. */
function told(store, { type, data, cluster }) {
  const node = data.node && nodeLink(store, data.node);
  switch (type) {
    case 'node:announce': return [h('a', { href: `#/nodes/${data.node}` }, data.name), ' joined'];
    case 'node:leave': return [node, data.graceful ? ' left' : ' was lost'];
    case 'node:status':
      if (data.status === 'introduced') return [node, ' asks for ', nodeLink(store, data.peer)];
      return [node, data.status === 'rejected' ? ' was rejected' : ' does not fit and has a minute to', data.reason && [': ', h('code', {}, data.reason)]];
    case 'node:class': return [node, ' is judged ', kind(data.class), ` (${data.evidence})`, data.relayed && ', to be relayed only'];
    case 'path:change': {
      const [a, b] = data.nodes;
      return [store.name(a), ' and ', store.name(b), ': ', pairLink(a, b, path(data.path)), typeof data.rtt_ms === 'number' && `, ${ms(data.rtt_ms)}`];
    }
    case 'seed:status': return ['seed ', h('b', {}, data.name), ` is ${data.status}`, data.reason && [': ', h('code', {}, data.reason)]];
    case 'cluster:state': return ['cluster ', h('b', {}, cluster), ` is effectively ${data.effective}`];
    case 'system:gap': return [state('warn', 'events were missed; all was read again')];
    default: return [h('code', {}, String(type))];
  }
}

function log(store, events) {
  if (!events.length) return h('p', { class: 'empty' }, 'Nothing has happened since this page was opened.');
  return h('ol', { class: 'log' }, events.map((event) => h('li', {}, clock(event.timestamp), h('p', {}, told(store, event)))));
}

function figure(title, value, more) {
  return h('div', { class: 'figure' }, h('dt', {}, title), h('dd', {}, value, more && h('small', {}, ` ${more}`)));
}

/** What to do where nobody is yet. */
function firstSteps(store) {
  const at = `https://${location.host}`;
  return card('Nobody has joined yet', null, h('div', { class: 'body' }, h('ol', { class: 'steps' },
    h('li', {}, 'On this server, read the join token:', h('pre', {}, 'cat meetpoint-data/join-token')),
    h('li', {}, 'On a machine that is to be a node, start one with it:', h('pre', {}, `meetpoint node --rendezvous ${at} --join-token mpj1... --name bob --echo`)),
    h('li', {}, 'On another one, connect to it:', h('pre', {}, `meetpoint node --rendezvous ${at} --join-token mpj1... --name alice --connect bob`))),
    h('p', { class: 'soft' }, `They show up here by themselves. The cluster ${store.cluster.name} is effectively ${store.cluster.effective}${store.cluster.effective === 'PRIVATE' ? ': it takes nodes on loopback and private addresses only' : ''}.`)));
}

export function overview(store) {
  const figures = h('dl', { class: 'figures', 'aria-label': 'Key figures' });
  const notes = h('div', { class: 'head' });
  const recent = h('div', { class: 'body' });
  const drawn = graph(store, (place) => { location.hash = place; });
  const events = card('Latest events', h('a', { class: 'push', href: '#/events' }, 'All events'), recent);
  const grid = h('div', { class: 'wide' }, drawn.element, events);
  const steps = h('div', {});
  const title = h('span', {});
  const element = [head(title), notes, figures, steps, grid];
  function show() {
    const { cluster, nodes, paths } = store;
    title.textContent = `Cluster ${cluster.name}`;
    const here = store.present().length;
    const list = [...paths.values()];
    const of = (name) => list.filter((path) => path.path === name).length;
    const rtts = quantiles(list.map((path) => path.rtt_ms).filter((rtt) => typeof rtt === 'number'));
    const up = store.seeds.filter((seed) => seed.status === 'up').length;
    set(notes, store.status.warnings.map((warning) => h('div', { class: 'note' }, h('b', {}, 'Note'), h('p', {}, warning.message))));
    notes.hidden = !store.status.warnings.length;
    set(figures,
      figure('Nodes here', count(here), `of ${count(nodes.size)}`), figure('Direct paths', count(of('direct'))), figure('Relayed', count(of('relay'))),
      figure('Without a path', count(of('none'))), figure('Median round trip', rtts ? ms(rtts.middle) : '–'),
      figure('Seeds up', count(up), `of ${count(store.seeds.length)}`), figure(cluster.type === cluster.effective ? 'Network' : `Network, ${cluster.type}`, cluster.effective));
    const nobody = nodes.size === 0 && here === 0;
    grid.hidden = nobody;
    set(steps, nobody && firstSteps(store));
    steps.hidden = !nobody;
    if (!nobody) drawn.show();
    set(recent, log(store, store.events.slice(0, 12)));
  }
  return { title: 'Overview', element, show, theme: drawn.theme, end: drawn.end };
}

/** A field to search in, and what it keeps. */
function filter(label, change) {
  const input = h('input', { type: 'search', autocomplete: 'off', spellcheck: 'false', oninput: change });
  const element = h('label', { class: 'row' }, h('span', {}, label), input);
  return { element, fits: (...words) => words.some((word) => String(word ?? '').toLowerCase().includes(input.value.trim().toLowerCase())) };
}

export function nodes(store) {
  const found = filter('Find', () => show());
  const total = h('p', { class: 'soft push', role: 'status' });
  const list = table('Nodes', [
    { title: 'Name', cut: true, cell: (node) => nodeLink(store, node.id) },
    { title: 'State', cell: (node) => presence(node, store.skew) },
    { title: 'Class', cell: (node) => kind(node.class) },
    { title: 'Evidence', minor: true, cell: (node) => node.evidence ?? '–' },
    { title: 'NAT mapping', minor: true, cell: (node) => node.presence?.mapping ?? '–' },
    { title: 'Observed at', minor: true, cell: (node) => h('code', {}, node.observed ?? node.presence?.source ?? '–') },
    { title: 'To server', right: true, cell: (node) => ms(node.presence?.rtt_ms) },
    { title: 'Version', minor: true, cell: (node) => node.version },
  ], 'No node is called that.');
  const steps = h('div', {});
  const rows = h('section', { class: 'card', 'aria-label': 'Nodes' }, h('header', {}, found.element, total), list.element);
  function show() {
    steps.hidden = store.nodes.size > 0;
    rows.hidden = store.nodes.size === 0;
    set(steps, store.nodes.size === 0 && firstSteps(store));
    const all = [...store.nodes.values()].map((node) => Object.assign(node, { away: !node.presence }));
    const fitting = all.filter((node) => found.fits(node.name, node.id, node.class, node.datacenter, node.presence?.source));
    fitting.sort((a, b) => a.away - b.away || a.name.localeCompare(b.name));
    total.textContent = fitting.length === all.length ? plural(all.length, 'node') : `${count(fitting.length)} of ${plural(all.length, 'node')}`;
    list.show(fitting);
  }
  return { title: 'Nodes', element: [head('Nodes'), steps, rows], show };
}

/** Asks again and again until the end. */
function asking(store, ask, failed) {
  const stop = new AbortController();
  const once = () => { if (store.link === 'live') ask(stop.signal).catch((error) => { if (!stop.signal.aborted) failed(error); }); };
  once();
  const timer = setInterval(once, ASK_MS);
  return () => { clearInterval(timer); stop.abort(); };
}

function problem(error) {
  return h('div', { class: 'note bad' }, h('b', {}, 'No answer'), h('p', {}, error.message, error.problem?.hint && ` – ${error.problem.hint}`));
}

export function node(store, [id]) {
  const title = h('span', {}, store.name(id));
  const sub = h('p', { class: 'row soft' });
  const notes = h('div', {});
  const evidence = h('div', { class: 'body' });
  const presenceBox = h('div', { class: 'body' });
  const profile = h('div', { class: 'body' });
  const happened = h('div', { class: 'body' });
  const other = (row) => (row.a === id ? row.b : row.a);
  const paths = table('Paths of this node', [
    { title: 'Peer', cut: true, cell: (row) => pairLink(id, other(row), store.name(other(row))) },
    { title: 'Path', cell: (row) => path(row.path) },
    { title: 'Round trip', right: true, cell: (row) => ms(row.rtt_ms) },
    { title: 'Met within', right: true, minor: true, cell: (row) => ms(row.elapsed_ms) },
    { title: 'Said', minor: true, cell: (row) => ago(row.said_unix_ms, store.skew) },
  ], 'It was not introduced to anybody since it is here.');
  const element = [
    head(h('span', {}, h('span', { class: 'crumb' }, h('a', { href: '#/nodes' }, 'Nodes'), ' / '), title), sub), notes,
    h('div', { class: 'two' }, card('Evidence', null, evidence), card('Presence', null, presenceBox)),
    card('Paths', null, paths.element),
    h('div', { class: 'two' }, card('What it says of itself', null, profile), card('Its events', null, happened)),
  ];
  function show() {
    const known = store.nodes.get(id);
    paths.show(store.pathsOf(id).sort((a, b) => store.name(other(a)).localeCompare(store.name(other(b)))));
    const about = store.events.filter(({ data }) => data.node === id || data.peer === id || data.nodes?.includes(id));
    set(happened, log(store, about.slice(0, 20)));
    if (!known) return;
    title.textContent = known.name;
    const { presence: here } = known;
    set(sub, kind(known.class), presence(known, store.skew));
    set(evidence, facts([
      ['Class', kind(known.class)], ['Rests on', known.evidence ?? 'nothing yet'], ['Declared', known.declared ?? 'nothing'],
      ['Observed at', h('code', {}, known.observed ?? 'no mapping was observed')],
      ['NAT mapping', here?.mapping ?? 'not known'], ['NAT filtering', here?.filtering ?? 'not known'],
      ['NAT forgets after', here?.nat_lifetime_s ? `more than ${span(here.nat_lifetime_s)}` : 'not known'],
      ['A second NAT', yes(here?.double_nat)], ['NATs on its way', depth(here?.nat_depth)],
      ['UDP is blocked', here ? yes(here.udp_blocked) : 'not known'],
    ]));
    set(presenceBox, here ? facts([
      ['Here for', span((Date.now() + store.skew - here.since_unix_ms) / 1000)], ['Comes from', h('code', {}, here.source)],
      ['Its mappings', here.observed.length ? here.observed.map((address) => h('div', {}, h('code', {}, address))) : 'none observed'],
      ['To the server', ms(here.rtt_ms)], ['Session', h('code', {}, here.session)],
    ]) : h('p', { class: 'soft' }, 'It is away. Last seen ', ago(known.last_seen_unix_ms, store.skew), '.'));
    set(profile, facts([
      ['Id', h('code', {}, known.id)], ['Version', known.version], ['Can do', known.capabilities.join(', ') || 'nothing more'],
      ['Datacenter', known.datacenter ?? '–'], ['Rack', known.rack ?? '–'], ['Forgotten when it leaves', yes(known.ephemeral)],
      ['First seen', ago(known.first_seen_unix_ms, store.skew)],
      ...Object.entries(known.metadata).map(([name, value]) => [h('code', {}, name), value]),
    ]));
  }
  const end = asking(store, async (signal) => {
    const fresh = await get(`${store.base()}/nodes/${seg(id)}`, signal);
    store.nodes.set(id, fresh);
    notes.replaceChildren();
    store.changed();
  }, (error) => set(notes, problem(error)));
  return { title: () => store.name(id), element, show, end };
}

export function paths(store) {
  const found = filter('Find', () => show());
  const wanted = h('select', { onchange: () => show() },
    [['', 'all paths'], ['direct', 'direct'], ['relay', 'relayed'], ['none', 'no path']].map(([value, words]) => h('option', { value }, words)));
  const total = h('p', { class: 'soft push', role: 'status' });
  const list = table('Paths', [
    { title: 'Nodes', cut: true, cell: (row) => pairLink(row.a, row.b, `${store.name(row.a)} – ${store.name(row.b)}`) },
    { title: 'Path', cell: (row) => path(row.path) },
    { title: 'Round trip', right: true, cell: (row) => ms(row.rtt_ms) },
    { title: 'Met within', right: true, minor: true, cell: (row) => ms(row.elapsed_ms) },
    { title: 'Said', minor: true, cell: (row) => ago(row.said_unix_ms, store.skew) },
  ], 'There is no such path. A path shows up when a node has connected to another one.');
  function show() {
    const all = [...store.paths.values()];
    const fitting = all.filter((row) => (!wanted.value || row.path === wanted.value) && found.fits(store.name(row.a), store.name(row.b), row.a, row.b));
    fitting.sort((a, b) => store.name(a.a).localeCompare(store.name(b.a)) || store.name(a.b).localeCompare(store.name(b.b)));
    total.textContent = fitting.length === all.length ? plural(all.length, 'path') : `${count(fitting.length)} of ${plural(all.length, 'path')}`;
    list.show(fitting);
  }
  const rows = h('section', { class: 'card', 'aria-label': 'Paths' }, h('header', {}, found.element, h('label', { class: 'row' }, h('span', {}, 'Show'), wanted), total), list.element);
  return { title: 'Paths', element: [head('Paths', h('p', { class: 'soft' }, 'How nodes that are here meet, by what they last said of it.')), rows], show };
}

export function between(store, [a, b]) {
  const text = h('p', {}, 'Asking…');
  const notes = h('div', {});
  const now = h('div', { class: 'body' });
  const sides = h('div', { class: 'two' });
  const tries = h('div', { class: 'body' });
  const words = () => `${store.name(a)} and ${store.name(b)}`;
  const title = h('span', {}, words());
  const element = [
    head(h('span', {}, h('span', { class: 'crumb' }, h('a', { href: '#/paths' }, 'Paths'), ' / '), title)), notes,
    card('Why they meet as they do', null, h('div', { class: 'body' }, text)), card('Path', null, now), sides, card('Introductions of the last hour', null, tries),
  ];
  const outcomes = { pending: () => state('idle', 'under way'), direct: () => path('direct'), relayed: () => path('relay'), failed: () => path('none') };
  function show() {
    title.textContent = words();
    const known = store.paths.get(pair(a, b));
    set(now, known ? facts([['Path', path(known.path)], ['Round trip', ms(known.rtt_ms)], ['Met within', ms(known.elapsed_ms)], ['Said', ago(known.said_unix_ms, store.skew)]])
      : h('p', { class: 'soft' }, 'They were not introduced since both are here.'));
  }
  const end = asking(store, async (signal) => {
    const told = await get(`${store.base()}/paths/${seg(a)}/${seg(b)}`, signal);
    notes.replaceChildren();
    text.textContent = `${told.text}.`;
    set(sides, told.nodes.map((side) => card(side.name, h('a', { class: 'push', href: `#/nodes/${side.id}` }, 'Its page'), h('div', { class: 'body' }, facts([
      ['Class', kind(side.class)], ['Here', yes(side.present)], ['NAT mapping', side.mapping ?? 'not known'], ['NAT filtering', side.filtering ?? 'not known'],
    ])))));
    const names = (side) => store.name(side.id);
    set(tries, told.introductions.length ? h('ol', { class: 'log' }, told.introductions.map((one) => h('li', {}, h('span', { class: 'soft' }, `${span(one.ago_ms / 1000)} ago`),
      h('div', {}, h('p', {}, (outcomes[one.outcome] ?? outcomes.failed)(), one.elapsed_ms !== null && one.elapsed_ms !== undefined && ` after ${ms(one.elapsed_ms)}`),
        one.sides.map((side) => h('p', { class: 'soft' }, `${names(side)} offered ${side.offered.join(', ') || 'nothing'}; says ${side.said ?? 'nothing yet'}`))))))
      : h('p', { class: 'soft' }, 'There were none.'));
  }, (error) => set(notes, problem(error)));
  return { title: words, element, show, end };
}

export function latency(store) {
  const map = h('div', { class: 'chart' });
  const under = h('p', { class: 'soft', role: 'status' });
  const histogram = h('div', { class: 'chart' });
  const figures = h('dl', { class: 'figures', 'aria-label': 'Round trips' });
  const which = h('p', { class: 'soft' });
  const nothing = h('p', { class: 'empty' }, 'No round trip between nodes is known yet. It is measured when two of them meet.');
  const slow = table('Slowest paths', [
    { title: 'Nodes', cut: true, cell: (row) => pairLink(row.a, row.b, `${store.name(row.a)} – ${store.name(row.b)}`) },
    { title: 'Path', cell: (row) => path(row.path) }, { title: 'Round trip', right: true, cell: (row) => ms(row.rtt_ms) },
  ], 'None is known yet.');
  const mapCard = card('Round trips between nodes', which, map, nothing, h('div', { class: 'legend' }, scale(), h('span', {}, 'in milliseconds; R: relayed'), under));
  const spreadCard = card('Paths by round trip', h('p', { class: 'soft' }, 'milliseconds; left bars direct, right bars relayed'), histogram);
  let drawn = [];
  let last = '';
  function show(force) {
    const list = [...store.paths.values()].filter((path) => typeof path.rtt_ms === 'number');
    const known = quantiles(list.map((path) => path.rtt_ms));
    set(figures, figure('Measured paths', count(list.length)), figure('Median', known ? ms(known.middle) : '–'), figure('Nine of ten below', known ? ms(known.ninth) : '–'), figure('Longest', known ? ms(known.last) : '–'));
    slow.show([...list].sort((a, b) => b.rtt_ms - a.rtt_ms).slice(0, 20));
    const { ids, of } = chosen(store);
    nothing.hidden = ids.length > 0;
    map.hidden = histogram.hidden = ids.length === 0;
    which.textContent = of > ids.length ? `the ${ids.length} of ${of} nodes with the most paths; the list of paths has all` : '';
    const now = JSON.stringify([map.clientWidth, ids, list.map((path) => [path.a, path.b, path.rtt_ms, path.path])]);
    if (!ids.length || (!force && now === last)) return;
    last = now;
    drawn.forEach((plot) => plot.destroy());
    drawn = [heatMap(map, ids, store, (words) => { under.textContent = words; }), spread(histogram, list)];
    for (const [plot, name] of [[drawn[0], 'Heat map of round trips'], [drawn[1], 'Number of paths by round trip']]) {
      plot.root.setAttribute('role', 'img');
      plot.root.setAttribute('aria-label', `${name}. ${plural(list.length, 'path')}, median ${ms(known.middle)}, longest ${ms(known.last)}. The list of paths has the numbers.`);
    }
  }
  const resize = new ResizeObserver(() => show());
  resize.observe(map);
  const element = [head('Latency'), figures, mapCard, h('div', { class: 'two' }, spreadCard, card('Slowest paths', h('a', { class: 'push', href: '#/paths' }, 'All paths'), slow.element))];
  return { title: 'Latency', element, show, theme: () => show(true), end: () => { resize.disconnect(); drawn.forEach((plot) => plot.destroy()); } };
}

export function seeds(store) {
  const list = table('Seeds', [
    { title: 'Name', cell: (seed) => h('b', {}, seed.name) },
    { title: 'State', cell: (seed) => [state(SEEDS[seed.status] ?? 'idle', seed.status), seed.reason && [' ', h('code', { title: seed.hint }, seed.reason)]] },
    { title: 'Address', cell: (seed) => h('code', {}, `${seed.host.includes(':') ? `[${seed.host}]` : seed.host}:${seed.port}`) },
    { title: 'Network', minor: true, cell: (seed) => (seed.public ? 'public' : 'private') },
    { title: 'Approved', minor: true, cell: (seed) => yes(seed.approved) },
    { title: 'Named by', minor: true, cell: (seed) => ({ flag: 'a flag', operator: 'the operator', self: 'itself' })[seed.origin] ?? seed.origin },
    { title: 'Verified', minor: true, cell: (seed) => (seed.verified_unix_ms ? ago(seed.verified_unix_ms, store.skew) : 'never') },
  ], 'This server knows no seeds of the cluster.');
  return {
    title: 'Seeds', element: [head('Seeds', h('p', { class: 'soft' }, 'Addresses by which the cluster can be joined.')), card('Seeds', null, list.element)],
    show: () => list.show(store.seeds),
  };
}

export function relay(store) {
  const figures = h('dl', { class: 'figures', 'aria-label': 'Relayed' });
  const off = h('div', { class: 'note' }, h('b', {}, 'Off'), h('p', {}, 'This server does not relay. Start it with ', h('code', {}, '--relay-ip'), ' to let nodes meet that have no other way.'));
  const list = table('Relay sessions', [
    { title: 'User', cut: true, cell: (one) => user(store, one.user) },
    { title: 'Client', cell: (one) => h('code', {}, one.client) },
    { title: 'By', minor: true, cell: (one) => one.transport },
    { title: 'Relayed at', minor: true, cell: (one) => h('code', {}, one.relayed.join(' ')) },
    { title: 'To peers', right: true, cell: (one) => bytes(one.to_peer.bytes) },
    { title: 'To client', right: true, cell: (one) => bytes(one.to_client.bytes) },
    { title: 'Ends in', right: true, minor: true, cell: (one) => span(one.lifetime_left_s) },
  ], 'Nothing is relayed now.');
  const rows = card('Sessions', null, list.element);
  function show() {
    off.hidden = store.sessions !== null;
    rows.hidden = figures.hidden = store.sessions === null;
    const all = store.sessions ?? [];
    const sum = (of) => all.reduce((total, one) => total + of(one), 0);
    set(figures, figure('Sessions', count(all.length)), figure('To peers', bytes(sum((one) => one.to_peer.bytes)), plural(sum((one) => one.to_peer.packets), 'packet')),
      figure('To clients', bytes(sum((one) => one.to_client.bytes)), plural(sum((one) => one.to_client.packets), 'packet')));
    list.show(all);
  }
  return { title: 'Relay', element: [head('Relay', h('p', { class: 'soft' }, 'Allocations on this server’s relay.')), off, figures, rows], show };
}

/** A node's allocation is its session's. */
function user(store, name) {
  const session = name.startsWith('node:') ? name.slice(5) : null;
  const owner = session && store.present().find((node) => node.presence.session === session);
  return owner ? nodeLink(store, owner.id) : h('code', {}, name);
}

export function events(store) {
  const wanted = h('select', { onchange: () => show() }, [
    ['', 'all events'], ['node:', 'nodes'], ['path:', 'paths'], ['seed:', 'seeds'], ['cluster:', 'the cluster'],
  ].map(([value, words]) => h('option', { value }, words)));
  const total = h('p', { class: 'soft push' });
  const list = table('Events', [
    { title: 'Time', cell: (event) => clock(event.timestamp) }, { title: 'Type', minor: true, cell: (event) => h('code', {}, event.type) },
    { title: 'What happened', cell: (event) => told(store, event) }, { title: 'Number', minor: true, right: true, cell: (event) => count(event.seq) },
  ], 'Nothing has happened since this page was opened.');
  const rows = h('section', { class: 'card', 'aria-label': 'Events' }, h('header', {}, h('label', { class: 'row' }, h('span', {}, 'Show'), wanted), total), list.element);
  function show() {
    const fitting = store.events.filter((event) => event.type.startsWith(wanted.value));
    total.textContent = plural(fitting.length, 'event');
    list.show(fitting);
  }
  return { title: 'Events', element: [head('Events', h('p', { class: 'soft' }, 'As they happen, the newest first.')), rows], show };
}
