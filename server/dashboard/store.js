// What the page knows: one cluster's nodes, paths and seeds, the relay's sessions, and the latest events.
//
// First the event stream is opened, then the state is read, then what happened meanwhile is applied: nothing is missed in between.

import { Refused, all, get, seg, token, watch } from './api.js';

/** Events kept for the page. */
const MAX_EVENTS = 1000;
/** Nodes asked for one by one after they joined; beyond it the whole list is read again. */
const MAX_SINGLE = 20;
/** How long changes are gathered before the page is drawn again. */
const GATHER_MS = 120;
/** How often what no event tells of is read again: round trips, traffic, nodes' words about their NATs. */
const REFRESH_MS = 20_000;
/** Waiting between attempts to reach the server. */
const WAITS_S = [1, 2, 4, 8, 15];

export const pair = (a, b) => (a < b ? `${a} ${b}` : `${b} ${a}`);

export class Store {
  /** `connecting`, `live`, `away` or `refused`. */
  link = 'connecting';
  /** When the next attempt is made, if the server is away. */
  retryAt = 0;
  /** Why a token is not taken, or why what was asked is not there. */
  reason = '';
  /** How far the server's clock is ahead of this one, in milliseconds. */
  skew = 0;
  status = null;
  clusters = [];
  cluster = null;
  loaded = false;
  nodes = new Map();
  paths = new Map();
  seeds = [];
  /** `null`: the server does not relay. */
  sessions = null;
  events = [];
  #listeners = new Set();
  #stop = null;
  #wake = null;
  #last = null;
  #queue = null;
  #joined = new Set();
  #timer = null;
  #run = 0;

  /** Calls when something changed; gives what ends that. */
  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  changed() {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      for (const listener of [...this.#listeners]) listener();
    }, GATHER_MS);
  }

  start(wanted) {
    this.stop();
    const stop = new AbortController();
    this.#stop = stop;
    this.#last = null;
    Object.assign(this, { loaded: false, link: 'connecting', wanted, events: [] });
    this.#follow(stop.signal, ++this.#run);
    this.#refresh(stop.signal);
  }

  stop() {
    this.#stop?.abort();
    this.#stop = null;
  }

  tryNow() {
    this.#wake?.();
  }

  /** Follows the stream, and comes back to it, until stopped. */
  async #follow(signal, run) {
    for (let failures = 0; !signal.aborted;) {
      let wait = null;
      // What can't be read now is read after a while, with the stream begun anew.
      const attempt = new AbortController();
      try {
        let begun = false;
        this.#queue = [];
        await watch(this.#last, (event) => {
          if (run !== this.#run) return;
          if (!begun) {
            begun = true;
            this.#load(signal).then(() => { failures = 0; }, (error) => { if (!this.#refused(error)) attempt.abort(error); });
          }
          if (this.#queue) this.#queue.push(event);
          else this.#take(event, signal);
        }, AbortSignal.any([signal, attempt.signal]));
      } catch (error) {
        if (signal.aborted) return;
        if (this.#refused(error)) return;
        const cause = attempt.signal.aborted ? attempt.signal.reason : error;
        wait = cause instanceof Refused ? cause.wait : null;
        this.reason = cause instanceof Refused ? cause.message : '';
      }
      if (signal.aborted) return;
      const seconds = wait ?? WAITS_S[Math.min(failures, WAITS_S.length - 1)];
      failures += 1;
      this.link = 'away';
      this.retryAt = Date.now() + seconds * 1000;
      this.changed();
      await new Promise((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, seconds * 1000);
        signal.addEventListener('abort', resolve, { once: true });
      });
      this.#wake = null;
      if (signal.aborted) return;
      this.link = 'connecting';
      this.changed();
    }
  }

  /** A token that is not taken ends all attempts. */
  #refused(error) {
    if (!(error instanceof Refused) || (error.status !== 401 && error.status !== 403)) return false;
    token.clear();
    this.stop();
    Object.assign(this, { link: 'refused', reason: error.message, loaded: false });
    this.changed();
    return true;
  }

  #failed(error) {
    if (error?.name === 'AbortError' || this.#refused(error)) return;
    this.reason = error.message;
    this.changed();
  }

  async #load(signal) {
    const [status, clusters] = await Promise.all([get('/v1/status', signal), get('/v1/clusters', signal)]);
    this.skew = status.now_unix_ms - Date.now();
    this.status = status;
    this.clusters = clusters.items;
    const names = this.clusters.map((cluster) => cluster.name);
    const name = [this.wanted, 'default', names[0]].find((wanted) => names.includes(wanted)) ?? null;
    this.cluster = this.clusters.find((cluster) => cluster.name === name) ?? null;
    if (this.cluster) await this.#loadCluster(signal);
    const queue = this.#queue ?? [];
    this.#queue = null;
    Object.assign(this, { loaded: true, link: 'live', reason: '' });
    for (const event of queue) this.#take(event, signal);
    this.changed();
  }

  async #loadCluster(signal) {
    const base = `/v1/clusters/${seg(this.cluster.name)}`;
    // A server that is not the cluster's home keeps no nodes and no seeds of it.
    const own = (path) => (this.cluster.foreign ? [] : all(`${base}/${path}`, signal));
    const seeds = this.cluster.foreign ? { items: [] } : get(`${base}/seeds`, signal);
    const lists = await Promise.all([own('nodes'), all(`${base}/paths`, signal), seeds, this.#relay(signal)]);
    this.nodes = new Map(lists[0].map((node) => [node.id, node]));
    this.paths = new Map(lists[1].map((path) => [pair(path.a, path.b), path]));
    this.seeds = lists[2].items;
    this.sessions = lists[3];
  }

  async #relay(signal) {
    try {
      return await all('/v1/relay/sessions', signal);
    } catch (error) {
      if (error instanceof Refused && error.problem?.code === 'relay_off') return null;
      throw error;
    }
  }

  async #refresh(signal) {
    while (!signal.aborted) {
      await new Promise((resolve) => {
        setTimeout(resolve, REFRESH_MS);
        signal.addEventListener('abort', resolve, { once: true });
      });
      if (signal.aborted || this.link !== 'live' || document.hidden) continue;
      try {
        this.status = await get('/v1/status', signal);
        await this.#loadCluster(signal);
        this.changed();
      } catch (error) {
        this.#failed(error);
      }
    }
  }

  #take(event, signal) {
    this.#last = event.id;
    if (event.type === 'system:ping') return;
    this.events.unshift(event);
    if (this.events.length > MAX_EVENTS) this.events.length = MAX_EVENTS;
    if (event.type === 'system:gap') {
      this.#queue = [];
      this.#load(signal).catch((error) => this.#failed(error));
    } else if (event.cluster === this.cluster?.name) {
      this.#apply(event, signal);
    }
    this.changed();
  }

  #apply({ type, data, timestamp }, signal) {
    const node = this.nodes.get(data.node);
    switch (type) {
      case 'node:announce':
        this.#ask(data.node, signal);
        break;
      case 'node:leave':
        if (!node) break;
        if (node.ephemeral && data.graceful) this.nodes.delete(node.id);
        else Object.assign(node, { presence: null, last_seen_unix_ms: timestamp });
        for (const [key, path] of this.paths) if (path.a === node.id || path.b === node.id) this.paths.delete(key);
        break;
      case 'node:class':
        if (node) Object.assign(node, { class: data.class, evidence: data.evidence, observed: data.observed });
        break;
      case 'path:change': {
        const [a, b] = data.nodes;
        const { path, rtt_ms, elapsed_ms } = data;
        this.paths.set(pair(a, b), { a, b, path, rtt_ms, elapsed_ms, said_unix_ms: timestamp });
        break;
      }
      case 'seed:status':
        get(`/v1/clusters/${seg(this.cluster.name)}/seeds`, signal).then((seeds) => {
          this.seeds = seeds.items;
          this.changed();
        }).catch((error) => this.#failed(error));
        break;
      case 'cluster:state':
        Object.assign(this.cluster, { type: data.kind, effective: data.effective });
        break;
      default:
    }
  }

  /** Reads a node that has joined, together with others that join now. */
  #ask(id, signal) {
    if (this.#joined.size === 0) setTimeout(() => this.#askAll(signal).catch((error) => this.#failed(error)), 2 * GATHER_MS);
    this.#joined.add(id);
  }

  async #askAll(signal) {
    const ids = [...this.#joined];
    this.#joined.clear();
    const base = `/v1/clusters/${seg(this.cluster.name)}/nodes`;
    if (ids.length > MAX_SINGLE) {
      this.nodes = new Map((await all(base, signal)).map((node) => [node.id, node]));
    } else {
      const gone = (error) => (error.status === 404 ? null : Promise.reject(error));
      const nodes = await Promise.all(ids.map((id) => get(`${base}/${id}`, signal).catch(gone)));
      for (const node of nodes.filter(Boolean)) this.nodes.set(node.id, node);
    }
    this.changed();
  }

  // What pages ask.

  base() {
    return `/v1/clusters/${seg(this.cluster.name)}`;
  }

  name(id) {
    return this.nodes.get(id)?.name ?? `${id.slice(0, 8)}…`;
  }

  present() {
    return [...this.nodes.values()].filter((node) => node.presence);
  }

  pathsOf(id) {
    return [...this.paths.values()].filter((path) => path.a === id || path.b === id);
  }
}
