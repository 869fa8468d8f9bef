// The server's routes, called with the key that the user gave.

const STORED = "lorax-spec-key";

/** What the server said instead of an answer; `status` is 0 where a stream broke off. */
export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(STORED),
  set: (value) => sessionStorage.setItem(STORED, value),
  forget: () => sessionStorage.removeItem(STORED),
};

/** The JSON of a GET. Throws Refusal, or TypeError where no server answers. */
export async function ask(path) {
  return (await call(path, {})).json();
}

/** The events of a generation, as many at a time as came together. Throws as `ask`. */
export async function* generate(body, signal) {
  const headers = { "content-type": "application/json" };
  const asked = { method: "POST", headers, body: JSON.stringify(body), signal };
  const response = await call("generate_stream", asked);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    const data = blocks.filter((block) => block.startsWith("data: ")); // others are comments
    const events = data.map((block) => JSON.parse(block.slice("data: ".length)));
    const failed = events.find((event) => event.error);
    if (events.length) yield events.filter((event) => !event.error);
    if (failed) throw new Refusal(failed.error, 0);
  }
}

/** Paths stand beside this page, so that a proxy may put both elsewhere. */
async function call(path, options) {
  const headers = { ...options.headers };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  const message = answer.error ?? `the server answers ${response.status}`;
  throw new Refusal(message, response.status);
}
