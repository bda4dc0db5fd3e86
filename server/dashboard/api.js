// The REST interface and the event stream. The token is in the Authorization header and in this tab's session storage, and nowhere else.

const KEY = 'meetpoint-token';
/** The server pings each 15 seconds. */
const SILENCE_MS = 40_000;
/** No page of a list is larger. */
const PAGE = 500;

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (text) => sessionStorage.setItem(KEY, text),
  clear: () => sessionStorage.removeItem(KEY),
};

/** The server refused: the status, and its problem detail if there is one. */
export class Refused extends Error {
  constructor(status, problem, wait) {
    super(problem?.detail ?? `the server answered ${status}`);
    Object.assign(this, { status, problem, wait });
  }
}

async function ask(path, accept, signal, more) {
  const headers = { accept, ...more };
  const held = token.get();
  if (held) headers.authorization = `Bearer ${held}`;
  const response = await fetch(path, { headers, signal, cache: 'no-store', credentials: 'omit', redirect: 'error' });
  if (response.ok) return response;
  const problem = await response.json().catch(() => null);
  throw new Refused(response.status, problem, Number(response.headers.get('retry-after')) || undefined);
}

export async function get(path, signal) {
  return (await ask(path, 'application/json', signal)).json();
}

/** A list, page by page to its end. */
export async function all(path, signal) {
  const items = [];
  let next = '';
  do {
    const page = await get(`${path}?limit=${PAGE}${next}`, signal);
    items.push(...page.items);
    next = page.next ? `&after=${encodeURIComponent(page.next)}` : '';
  } while (next);
  return items;
}

/** Hands over each event until the stream ends. It ends with an error if the server falls silent. */
export async function watch(after, take, signal) {
  const silent = new AbortController();
  const either = AbortSignal.any([signal, silent.signal]);
  let timer = setTimeout(() => silent.abort(), SILENCE_MS);
  try {
    const response = await ask('/v1/events', 'text/event-stream', either, after ? { 'last-event-id': after } : {});
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => silent.abort(), SILENCE_MS);
      const parts = (text + value).split('\n\n');
      text = parts.pop();
      for (const part of parts) {
        const line = part.split('\n').find((field) => field.startsWith('data: '));
        if (line) take(JSON.parse(line.slice(6)));
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

/** For one path segment. */
export const seg = encodeURIComponent;
