// Asks the server. A busy one is asked again after as long as it says; everything else that goes wrong is a Failure.

export const TRIES = 5;
const LONGEST = 30; // seconds
const KEPT = "densekit.token";
// What a proxy before the server means, which has no codes.
const BY_STATUS = { 401: "unauthorized", 403: "unauthorized", 408: "too_slow", 413: "body_too_large", 502: "unreachable", 504: "timeout" };
const BUSY = [429, 503];

export class Failure extends Error {
  // `code` is the server's short name for what is wrong, `message` what it says about it.
  constructor(code, message = "", status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

let token = kept();

export function useToken(given) {
  token = given;
  try {
    sessionStorage.setItem(KEPT, given);
  } catch {
    // Then it is asked for again after a reload.
  }
}

// JSON of a path. With `file` it is sent; `onBusy` is told for how many seconds there is a wait.
export async function ask(path, { file = null, signal, onBusy = () => {} } = {}) {
  for (let attempt = 1; ; attempt += 1) {
    const response = await send(path, file, signal);
    if (response.ok) return json(response);
    const failure = await failureOf(response);
    // One that took too long would do so again.
    if (!BUSY.includes(response.status) || failure.code === "timeout") throw failure;
    if (attempt === TRIES) throw new Failure("busy", failure.message, response.status);
    const seconds = waitOf(response, attempt);
    onBusy(seconds);
    await pause(seconds * 1000, signal);
  }
}

async function send(path, file, signal) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${token}`;
  // What a file is, its content tells; the browser goes by its name.
  if (file) headers["Content-Type"] = "application/octet-stream";
  try {
    return await fetch(path, { method: file ? "POST" : "GET", body: file, headers, signal, cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    // A folder looks like a file until it is read.
    if (file && !(await readable(file))) throw new Failure("unreadable");
    throw new Failure("unreachable");
  }
}

async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

async function json(response) {
  try {
    return await response.json();
  } catch {
    throw new Failure("strange", "", response.status);
  }
}

async function failureOf(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Not the server's own words: a proxy's, in HTML.
  }
  const code = response.status === 401 ? "unauthorized" : (error.code ?? BY_STATUS[response.status] ?? "other");
  return new Failure(code, error.message ?? `${response.status} ${response.statusText}`, response.status);
}

function waitOf(response, attempt) {
  const said = response.headers.get("Retry-After") ?? "";
  const seconds = /^\d+$/.test(said) ? Number(said) : (Date.parse(said) - Date.now()) / 1000;
  return Math.min(LONGEST, Math.max(1, Math.ceil(Number.isFinite(seconds) ? seconds : 2 ** (attempt - 1))));
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

function kept() {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return "";
  }
}
