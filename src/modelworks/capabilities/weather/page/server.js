// The ordinary API, asked as the reader: with a key that lies in this tab, or with the browser's session.
const KEY = "modelworks-key";
// The page lies at /pages/weather/, wherever a proxy has put that.
const ROOT = new URL("../../", import.meta.url);
let token = null;

export const keep = (key) => sessionStorage.setItem(KEY, key);
export const forget = () => sessionStorage.removeItem(KEY);

export class Refused extends Error {
  constructor(status, told) {
    super([told?.message ?? `HTTP ${status}`, told?.hint].filter(Boolean).join(" "));
    this.status = status;
  }
}

async function send(path, options = {}) {
  const headers = { ...options.headers };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  else if (token && options.method) headers["x-csrf-token"] = token;
  const answer = await fetch(new URL(path, ROOT), { ...options, headers });
  if (!answer.ok) throw new Refused(answer.status, (await answer.json().catch(() => null))?.error);
  return answer;
}

export const ask = async (path) => (await send(path)).json();
export const post = async (path, body) =>
  (await send(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body ?? {}) })).json();

// Whether somebody may be served: by the key, or by a session, whose token changes need.
export async function enter() {
  if (!sessionStorage.getItem(KEY)) token = (await ask("api/session")).csrf_token;
  return ask("api/runs?limit=100");
}

// Of a stored file the float32 values from `first` on.
export async function floats(digest, first, count) {
  const range = `bytes=${first * 4}-${(first + count) * 4 - 1}`;
  const bytes = await (await send(`api/blobs/${digest}`, { headers: { range } })).arrayBuffer();
  const view = new DataView(bytes);
  return Float32Array.from({ length: bytes.byteLength / 4 }, (_, at) => view.getFloat32(at * 4, true));
}
