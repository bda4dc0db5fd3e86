// The frame: who may look, which page is shown, how the server is reached, light or dark.

import { token } from './api.js';
import { h, set, span, state } from './dom.js';
import { Store } from './store.js';
import * as views from './views.js';

const THEMES = ['auto', 'light', 'dark'];
const TABS = [['', 'Overview'], ['nodes', 'Nodes'], ['paths', 'Paths'], ['latency', 'Latency'], ['seeds', 'Seeds'], ['relay', 'Relay'], ['events', 'Events']];
const PAGES = { '': views.overview, nodes: views.nodes, paths: views.paths, latency: views.latency, seeds: views.seeds, relay: views.relay, events: views.events };

const by = (id) => document.getElementById(id);
const [main, tabs, link, leave, cluster, choice, theme] = ['main', 'tabs', 'link', 'leave', 'cluster', 'cluster-choice', 'theme'].map(by);
const store = new Store();
let view = null;
let shown = null;

// Routes.

function route() {
  return location.hash.replace(/^#\/?/, '').split('/').filter(Boolean).map((word) => { try { return decodeURIComponent(word); } catch { return word; } });
}

function page([first = '', ...rest]) {
  if (first === 'nodes' && rest.length === 1) return views.node;
  if (first === 'paths' && rest.length === 2) return views.between;
  return rest.length === 0 ? PAGES[first] : undefined;
}

/** Shows what the address says, with the state there is. */
function draw() {
  const words = route();
  const key = !token.get() ? 'sign in' : !store.loaded ? 'loading' : `${store.cluster?.name} ${words.join('/')}`;
  if (key !== shown) {
    // A page that the operator has not chosen himself does not take the focus away.
    const moved = shown !== null && shown !== 'loading' && key !== 'loading';
    view?.end?.();
    shown = key;
    view = open(key, words);
    main.setAttribute('aria-busy', String(key === 'loading'));
    set(main, view.element);
    if (moved) { main.focus({ preventScroll: true }); scrollTo(0, 0); }
  }
  view.show?.();
  frame(words[0] ?? '');
}

function open(key, words) {
  if (key === 'sign in') return signIn();
  if (key === 'loading') return { title: 'Loading', element: [], show: waiting };
  if (!store.cluster) return { title: 'No cluster', element: h('p', { class: 'empty' }, 'This server has no cluster.') };
  const found = page(words);
  if (found) return found(store, words.slice(1));
  return { title: 'Not found', element: [h('h1', {}, 'There is no such page'), h('p', {}, h('a', { href: '#/' }, 'To the overview'))] };
}

function waiting() {
  set(main, h('div', { class: 'loading' }, h('h1', {}, store.link === 'away' ? 'The server does not answer' : 'Loading…'), h('p', {}, store.reason)));
}

function frame(first) {
  const title = typeof view.title === 'function' ? view.title() : view.title;
  document.title = `${title} · Meetpoint`;
  const inside = token.get() !== null;
  tabs.hidden = leave.hidden = !inside;
  if (!tabs.childElementCount) set(tabs, TABS.map(([name, words]) => h('a', { href: `#/${name}` }, words)));
  for (const [at, tab] of [...tabs.children].entries()) {
    if (TABS[at][0] === first) tab.setAttribute('aria-current', 'page');
    else tab.removeAttribute('aria-current');
  }
  const names = store.clusters.map((one) => one.name);
  cluster.hidden = !inside || names.length < 2;
  if (names.join() !== [...choice.options].map((option) => option.value).join()) set(choice, names.map((name) => h('option', { value: name }, name)));
  choice.value = store.cluster?.name ?? '';
  if (store.status) by('version').textContent = `meetpoint ${store.status.version}`;
  connection(inside);
}

let said = '';
/** Says how the server is reached, and counts down to the next attempt. */
function connection(inside) {
  const left = Math.max(0, Math.ceil((store.retryAt - Date.now()) / 1000));
  const words = !inside ? '' : store.link === 'away' ? `away ${left}` : `${store.link} ${store.reason}`;
  if (words === said) return;
  const [again, counting] = [said.startsWith('away') && words.startsWith('away'), link.querySelector('.left')];
  said = words;
  if (again && counting) {
    counting.textContent = span(left);
    return;
  }
  if (!inside) set(link);
  else if (store.link === 'live') set(link, store.reason ? state('warn', `live, but: ${store.reason}`) : state('good', 'live'));
  // The number changes each second: it is not read out.
  else if (store.link === 'away') {
    set(link, state('bad', store.reason || 'The server does not answer.'), h('span', { 'aria-hidden': 'true' }, 'Next try in ', h('span', { class: 'left num' }, span(left))),
      h('button', { type: 'button', class: 'quiet', onclick: () => store.tryNow() }, 'Try now'));
  } else set(link, state('idle', 'connecting'));
}

// Signing in.

function signIn() {
  const input = h('input', { type: 'password', id: 'token', name: 'token', autocomplete: 'off', spellcheck: 'false', required: true, 'aria-describedby': 'token-help' });
  const wrong = h('p', { class: 'wrong', role: 'alert' }, store.link === 'refused' ? `That did not work: ${store.reason}.` : '');
  const form = h('form', { class: 'body', onsubmit: (event) => {
    event.preventDefault();
    const text = input.value.trim();
    // A header can't hold anything else, and no token does.
    if (!/^[\x21-\x7e]+$/.test(text)) { wrong.textContent = 'A token has letters, digits and signs, and no spaces.'; return; }
    token.set(text);
    begin();
  } },
  h('p', { class: 'soft', id: 'token-help' }, 'This page only reads: the viewer token is enough. On the server it is in ', h('code', {}, 'meetpoint-data/viewer-token'), '. It stays in this tab and is forgotten with it.'),
  h('label', { class: 'field' }, h('span', {}, 'Access token'), input), wrong, h('div', {}, h('button', { type: 'submit', class: 'main' }, 'Open the dashboard')));
  return { title: 'Sign in', element: h('section', { class: 'card narrow', 'aria-label': 'Sign in' }, h('header', {}, h('h1', {}, 'Meetpoint dashboard')), form), show() {} };
}

function begin(wanted) {
  shown = null;
  store.start(wanted ?? sessionStorage.getItem('meetpoint-cluster') ?? undefined);
  draw();
}

leave.addEventListener('click', () => {
  token.clear();
  store.stop();
  Object.assign(store, { loaded: false, link: 'connecting', clusters: [] });
  draw();
});
choice.addEventListener('change', () => {
  sessionStorage.setItem('meetpoint-cluster', choice.value);
  location.hash = '#/';
  begin(choice.value);
});

// Light and dark.

function paint(wanted) {
  if (wanted === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = wanted;
  theme.textContent = { auto: 'Theme: auto', light: 'Theme: light', dark: 'Theme: dark' }[wanted];
  view?.theme?.();
}

const chosen = () => { const held = localStorage.getItem('meetpoint-theme'); return THEMES.includes(held) ? held : 'auto'; };
theme.addEventListener('click', () => {
  const next = THEMES[(THEMES.indexOf(chosen()) + 1) % THEMES.length];
  localStorage.setItem('meetpoint-theme', next);
  paint(next);
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => view?.theme?.());

// The address's fragment is the page's: this link only moves the focus.
by('skip').addEventListener('click', (event) => { event.preventDefault(); main.focus(); });
addEventListener('hashchange', draw);
// A page that the browser only keeps must not keep a connection.
addEventListener('pagehide', () => store.stop());
addEventListener('pageshow', (event) => { if (event.persisted && token.get()) begin(); });
store.listen(draw);
setInterval(() => { if (store.link === 'away') connection(true); }, 500);
paint(chosen());
if (token.get()) begin();
else draw();
