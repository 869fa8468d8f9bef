// The adapter picker: one radio button an adapter, with where it is now.

/** What people call where an adapter is; the server's words on the left. */
const STATES = {
  absent: "cold",
  fetching: "loading",
  host: "warm",
  device: "hot",
  evicting: "leaving",
  failed: "failed",
};
const PLACES = {
  absent: "on disk",
  fetching: "on its way",
  host: "in the machine's memory",
  device: "on the device",
  evicting: "leaving the device",
};

/** Brings the list up to what the server knows; a button that stays keeps its focus. */
export function show(list, heads, adapters) {
  const known = new Map([...list.children].map((label) => [label.dataset.id, label]));
  const once = new Map(adapters.map((adapter) => [adapter.adapter_id, adapter]));
  for (const adapter of once.values()) {
    const label = known.get(adapter.adapter_id) ?? list.appendChild(entry(adapter.adapter_id));
    known.delete(adapter.adapter_id);
    describe(label, adapter);
  }
  for (const [id, label] of known) {
    if (id && !label.querySelector("input").checked) label.remove();
  }
  showHeads(heads, [...once.values()]);
}

function entry(id) {
  const label = document.createElement("label");
  label.dataset.id = id;
  const button = Object.assign(document.createElement("input"), { type: "radio", name: "adapter" });
  button.value = id;
  label.append(button, span("name", id), span("kind", ""), span("state", ""));
  return label;
}

function describe(label, adapter) {
  const state = label.querySelector(".state");
  label.querySelector(".kind").textContent = kind(adapter);
  state.dataset.state = adapter.state;
  state.textContent = STATES[adapter.state] ?? adapter.state;
  label.title = adapter.error || `${PLACES[adapter.state] ?? adapter.state}, ${size(adapter.bytes)}`;
}

function kind(adapter) {
  const parts = [adapter.kind];
  if (adapter.rank) parts.push(`rank ${adapter.rank}`);
  if (adapter.medusa_heads) parts.push(`${adapter.medusa_heads} heads`);
  return parts.filter(Boolean).join(", ");
}

function size(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function showHeads(select, adapters) {
  const present = new Set([...select.options].map((option) => option.value));
  for (const { adapter_id: id, medusa_heads: heads } of adapters) {
    if (heads && !present.has(id)) select.add(new Option(id, id));
  }
}

function span(name, text) {
  return Object.assign(document.createElement("span"), { className: name, textContent: text });
}
