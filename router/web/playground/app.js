// The page: reads the form, runs both sides, compares them.

import * as adapters from "./adapters.js";
import { ask, generate, key, Refusal } from "./api.js";
import { Pane } from "./pane.js";

const POLL = { running: 500, idle: 2500 }; // milliseconds between looks at the adapters
const FEW = 8; // tokens on both sides before a speed-up is worth telling

const find = (selector) => document.querySelector(selector);
const form = find("#form");
const off = new Pane("speculation off");
const on = new Pane("speculation on");
find("#panes").append(off.root, on.root);
let running = null; // the AbortController of a run

form.addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
form.elements.method.addEventListener("change", () => {
  const alone = form.elements.method.value === "none";
  on.root.hidden = alone;
  find("#run").textContent = alone ? "Run" : "Run off and on";
});
find("#other").addEventListener("input", () => {
  form.querySelector(".other input[type=radio]").checked = true;
});
find("#stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (event) => {
  if (find("#key-dialog").open) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    form.requestSubmit();
  }
  if (event.key === "Escape") running?.abort();
});

async function run() {
  if (running) return;
  const fields = read();
  if (!fields) return;
  const panes = fields.method === "none" ? [off] : [off, on];
  const control = (running = new AbortController());
  busy(true);
  for (const pane of [off, on]) pane.clear();
  say("Running…");
  if (off.root.getBoundingClientRect().top > innerHeight) find(".summary").scrollIntoView();
  const each = panes.map((pane) => () => stream(pane, body(fields, pane === on), control.signal));
  if (fields.inTurn) for (const start of each) await start();
  else await Promise.all(each.map((start) => start()));
  running = null;
  busy(false);
  compare();
  say(verdict(panes, control.signal.aborted));
  poll();
}

/** What the form asks for; null where it is wrong, which the browser then says. */
function read() {
  const { elements } = form;
  const other = find("#other");
  other.required = form.querySelector(".other input[type=radio]").checked;
  if (!form.reportValidity()) return null;
  const number = (name) => (elements[name].value === "" ? null : elements[name].valueAsNumber);
  return {
    prompt: elements.prompt.value,
    chat: elements.chat.checked,
    adapter: elements.adapter.value || other.value.trim(),
    method: elements.method.value,
    heads: elements.heads.value || null,
    guesses: number("num_tokens"),
    temperature: number("temperature"),
    seed: number("seed") ?? crypto.getRandomValues(new Uint32Array(1))[0], // both need the same
    most: number("max_new_tokens"),
    inTurn: elements.in_turn.checked,
  };
}

function body(fields, speculates) {
  const speculation = {
    method: fields.method,
    num_tokens: fields.guesses,
    medusa_adapter_id: fields.heads,
  };
  return {
    inputs: fields.prompt,
    parameters: {
      adapter_id: fields.adapter,
      apply_chat_template: fields.chat,
      max_new_tokens: fields.most,
      temperature: fields.temperature,
      do_sample: fields.temperature > 0,
      seed: fields.seed,
      step_details: true,
      speculation: speculates ? speculation : { method: "none" },
    },
  };
}

async function stream(pane, asked, signal) {
  if (signal.aborted) return;
  pane.begin();
  try {
    for await (const events of generate(asked, signal)) {
      pane.add(events);
      compare();
    }
  } catch (error) {
    if (!signal.aborted) {
      pane.fail(error.message);
      noticeKeys(error);
    }
  } finally {
    pane.end();
  }
}

/** The figures between the two sides; at the end by the server's own clock. */
function compare() {
  const times = speedup();
  find("#speedup").textContent = times ? `${times.toFixed(2)} ×` : "–";
  find("#ratio").textContent = on.forwards ? (on.tokens.length / on.forwards).toFixed(2) : "–";
  const { drafted_tokens: drafted, accepted_tokens: accepted } = on.counts ?? {};
  find("#right").textContent = drafted
    ? `${accepted} of ${drafted} (${Math.round((100 * accepted) / drafted)} %)`
    : "–";
}

/** Time off over time on, for as many tokens as both have, from each one's first. */
function speedup() {
  if (off.details && on.details && off.tokens.length === on.tokens.length) {
    const [slow, fast] = [off, on].map(({ details }) => details.timings);
    return off.tokens.length < FEW
      ? null
      : (slow.total - slow.first_token) / (fast.total - fast.first_token);
  }
  const last = Math.min(off.tokens.length, on.tokens.length) - 1;
  if (last < FEW) return null;
  const [slow, fast] = [off, on].map(({ times }) => times[last] - times[0]);
  return fast > 0 ? slow / fast : null;
}

function verdict(panes, stopped) {
  if (stopped) return "Stopped.";
  if (panes.some((pane) => pane.details === null)) return "There is no whole answer to compare.";
  if (panes.length === 1) return "Done. Let somebody guess to compare.";
  const [one, other] = panes.map((pane) => pane.ids);
  const differs = one.findIndex((id, index) => id !== other[index]);
  if (differs >= 0 || one.length !== other.length || off.generated !== on.generated) {
    const at = differs < 0 ? Math.min(one.length, other.length) : differs;
    return (
      `The texts differ from token ${at + 1} on: two candidates were as good as tied, ` +
      "and a server without --deterministic rounds more rows another way."
    );
  }
  const seed = on.details.seed === null ? "" : ` Seed ${on.details.seed}.`;
  const same = `Same text on both sides: all ${one.length} tokens are equal.${seed}`;
  return on.counts.drafted_tokens
    ? same
    : `${same} Nothing was guessed: choose prompt lookup, or an adapter with heads.`;
}

function say(text) {
  find("#verdict").textContent = text;
}

function busy(yes) {
  find("#run").disabled = yes;
  find("#stop").disabled = !yes;
  document.body.classList.toggle("running", yes);
}

let waiting = null; // the timer until the next look
async function poll() {
  clearTimeout(waiting);
  if (!document.hidden) {
    try {
      adapters.show(find("#adapters"), find("#heads"), await ask("adapters"));
    } catch (error) {
      if (noticeKeys(error)) return; // goes on with a key
    }
  }
  waiting = setTimeout(poll, running ? POLL.running : POLL.idle);
}

async function greet() {
  try {
    const info = await ask("info");
    const name = info.model_id.split("/").slice(-2).join("/");
    const kind = [info.model_dtype, info.model_device_type].filter(Boolean).join(" on ");
    find("#server").textContent = `${name}, ${kind}, version ${info.version}`;
    form.elements.max_new_tokens.max = info.max_total_tokens;
    const wanted = info.default_adapter_id;
    await poll();
    for (const button of form.elements.adapter) button.checked ||= wanted && button.value === wanted;
  } catch (error) {
    if (!noticeKeys(error)) find("#server").textContent = error.message;
  }
}

const dialog = find("#key-dialog");
function askForKey(why) {
  find("#key-why").textContent = why;
  if (!dialog.open) dialog.showModal();
}

/** Whether it was about the key; then the user is asked for one. */
function noticeKeys(error) {
  const wanted = error instanceof Refusal && error.status === 401;
  if (wanted) askForKey(key.get() ? "The server does not know this key." : "The server asks for one.");
  return wanted;
}

find("#key").addEventListener("click", () => askForKey("This tab keeps it until it is closed."));
find("#key-cancel").addEventListener("click", () => dialog.close());
find("#key-forget").addEventListener("click", () => {
  key.forget();
  dialog.close();
});
find("#key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(find("#key-field").value.trim());
  find("#key-field").value = "";
  dialog.close();
  greet();
});

greet();
