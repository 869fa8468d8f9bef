// One side of the comparison: its text in colours, its figures as they come.

const DEEPEST_SHADE = 5;
const WHO = {
  medusa: "a Medusa head",
  hydra: "a Hydra head",
  prompt_lookup: "prompt lookup",
  draft_model: "the draft model",
  lookahead: "lookahead",
  grammar: "the grammar",
};
const HEADS = ["medusa", "hydra"];

export class Pane {
  constructor(title) {
    this.root = document.querySelector("#pane").content.firstElementChild.cloneNode(true);
    this.root.querySelector("h2").textContent = title;
    this.text = this.root.querySelector(".text");
    this.text.setAttribute("aria-label", `Text, ${title}; arrow keys go through its tokens`);
    this.inspector = this.root.querySelector(".inspector");
    this.text.addEventListener("pointerover", (event) => this.#inspect(event.target));
    this.text.addEventListener("click", (event) => this.#inspect(event.target));
    this.text.addEventListener("keydown", (event) => this.#walk(event));
    this.text.addEventListener("focus", () => this.#inspect(this.current ?? this.text.firstChild));
    this.text.addEventListener("blur", () => this.#leave());
    this.text.addEventListener("pointerleave", () => this.#leave());
    this.clear();
  }

  clear() {
    this.tokens = []; // of the answer: {token, depth, step}
    this.steps = [{ tokens: 0, guessed: null }];
    this.times = []; // milliseconds after the start at which each token came
    this.counts = null;
    this.details = null;
    this.generated = null;
    this.current = null;
    this.text.replaceChildren();
    this.inspector.textContent = "";
    this.root.querySelector(".failure").textContent = "";
    this.root.querySelector(".depths").hidden = true;
    for (const place of this.root.querySelectorAll("[data-figure]")) place.textContent = "–";
  }

  begin() {
    this.clear();
    this.began = performance.now();
    this.root.setAttribute("aria-busy", "true");
  }

  add(events) {
    const now = performance.now() - this.began;
    const low = this.text.scrollHeight - this.text.scrollTop - this.text.clientHeight < 40;
    for (const event of events) {
      if (!comesAfterAll(event)) {
        this.#append(event.token, event.speculation, event.rejected);
        this.times.push(now);
      }
      if (event.details) {
        this.details = event.details;
        this.counts = event.details.speculation;
        this.generated = event.generated_text;
      }
    }
    if (low) this.text.scrollTop = this.text.scrollHeight;
    this.#figures();
  }

  end() {
    this.root.removeAttribute("aria-busy");
  }

  fail(message) {
    this.root.querySelector(".failure").textContent = message;
  }

  get ids() {
    return this.tokens.map(({ token }) => token.id);
  }

  /** Forward passes; before the server tells, those that ended with the model's own token. */
  get forwards() {
    return this.counts?.forward_passes ?? this.steps.length - 1;
  }

  #append(token, counts, rejected) {
    const step = this.steps.at(-1);
    step.rejected = rejected ?? [];
    const depth = token.skipped ? step.tokens + 1 : 0;
    step.tokens += 1;
    if (!token.skipped) {
      if (counts) step.guessed = counts.drafted_tokens - (this.counts?.drafted_tokens ?? 0);
      this.counts = counts ?? this.counts;
      this.steps.push({ tokens: 0, guessed: null });
    }
    const shade = Math.min(depth, DEEPEST_SHADE);
    const span = document.createElement("span");
    span.textContent = token.text;
    span.className = token.skipped ? `t ${token.drafter} d${shade}` : "t";
    if (token.text.startsWith("\n")) span.classList.add("newline");
    span.dataset.index = this.tokens.length;
    this.tokens.push({ token, depth, step, number: this.steps.indexOf(step) + 1 });
    this.text.append(span);
  }

  #figures() {
    const passed = this.times.at(-1) - this.times[0];
    const figures = {
      first: this.times.length ? `${Math.round(this.times[0])} ms` : "–",
      tokens: this.tokens.length,
      forwards: this.forwards,
      ratio: this.forwards ? (this.tokens.length / this.forwards).toFixed(2) : "–",
      rate: passed > 0 ? Math.round((1000 * (this.tokens.length - 1)) / passed) : "–",
    };
    for (const [name, value] of Object.entries(figures)) {
      this.root.querySelector(`[data-figure=${name}]`).textContent = value;
    }
    if (this.counts?.drafted_tokens) this.#depths(this.counts.drafters);
  }

  /** A row a drafter, a column a distance; the last column for all beyond. */
  #depths(drafters) {
    const place = this.root.querySelector(".depths");
    const table = place.firstElementChild;
    const rows = Object.entries(drafters).filter(([, counts]) => counts.drafted_tokens);
    const most = Math.max(...rows.map(([, counts]) => counts.drafted_by_depth.length));
    const columns = Array.from({ length: Math.min(most, DEEPEST_SHADE) }, (_, at) => `${at + 1}`);
    if (most > DEEPEST_SHADE) columns[DEEPEST_SHADE - 1] += "+";
    place.hidden = false;
    table.tHead.rows[0].replaceChildren(...["", ...columns].map((name) => cell("th", name)));
    table.tBodies[0].replaceChildren(
      ...rows.map(([name, counts]) => {
        const made = gathered(counts.drafted_by_depth);
        const right = gathered(counts.accepted_by_depth);
        const title = cell("th", "");
        title.scope = "row";
        const text = name.replace("_", " ");
        title.append(Object.assign(cell("span", text), { className: `t ${name} d2` }));
        const row = document.createElement("tr");
        row.append(title, ...made.map((all, at) => cell("td", `${right[at] ?? 0}/${all}`)));
        return row;
      }),
    );
  }

  #walk(event) {
    const at = this.current ? Number(this.current.dataset.index) : -1;
    const to = {
      ArrowRight: at + 1,
      ArrowLeft: at - 1,
      Home: 0,
      End: this.tokens.length - 1,
    }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const span = this.text.children[Math.max(0, Math.min(to, this.tokens.length - 1))];
    this.#inspect(span);
    span?.scrollIntoView({ block: "nearest" });
  }

  #leave() {
    for (const span of this.text.querySelectorAll(".step, .current")) {
      span.classList.remove("step", "current");
    }
    this.inspector.textContent = "";
  }

  /** Says of a token who guessed it, and what became of its step's other guesses. */
  #inspect(span) {
    if (!span?.dataset?.index) return;
    this.#leave();
    this.current = span;
    span.classList.add("current");
    const { token, depth, step, number } = this.tokens[span.dataset.index];
    this.tokens.forEach((other, index) => {
      if (other.step === step) this.text.children[index].classList.add("step");
    });
    const name = WHO[token.drafter] ?? token.drafter;
    const who = !token.skipped
      ? "the model’s own"
      : HEADS.includes(token.drafter)
        ? `guessed by ${name} ${depth} ahead`
        : `guessed by ${name}, ${depth} ahead`;
    const sure = `${(100 * Math.exp(token.logprob)).toFixed(0)} % likely`;
    this.inspector.textContent = `${JSON.stringify(token.text)}: ${who}, ${sure}. ${told(step, number)}`;
  }
}

/** How a step went, in words. */
function told(step, number) {
  const got = `Forward ${number} gave ${step.tokens} ${step.tokens === 1 ? "token" : "tokens"}`;
  if (step.guessed === null) return `${got}.`;
  if (step.guessed === 0) return `${got}; nothing was guessed.`;
  const right = step.tokens - 1;
  const counted = `${got}; of ${step.guessed} guesses ${right} right, ${step.guessed - right} rejected`;
  const named = (step.rejected ?? []).map(
    ({ ahead, text, drafter }) =>
      `${JSON.stringify(text)} (${ahead} ahead, ${drafter.replace("_", " ")})`,
  );
  return named.length ? `${counted}: ${named.join(", ")}.` : `${counted}.`;
}

/** Counts by depth, with one number for the deepest shade and all beyond it. */
function gathered(counts) {
  const deep = counts.slice(DEEPEST_SHADE - 1);
  const kept = counts.slice(0, DEEPEST_SHADE - 1);
  return deep.length ? [...kept, deep.reduce((sum, count) => sum + count)] : kept;
}

/** Whether it brings the details alone, its token having come before. */
function comesAfterAll({ index, details }) {
  return details && index > details.generated_tokens;
}

function cell(kind, text) {
  return Object.assign(document.createElement(kind), { textContent: text });
}
