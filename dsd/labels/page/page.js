"use strict";
// Everything that comes from the run is shown as text, never as HTML.

const labels = ["same", "different", "unsure"];
const element = (id) => document.getElementById(id);
const sides = [element("reference"), element("target")];

let state = null; // what the server last said
let visited = []; // places of the pairs that were shown before this one
let since = 0; // when both pictures stood here, in ms
let busy = false; // a request is under way
let broken = false; // a picture of this pair cannot be read

async function ask(path, content) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) };
  let answer;
  try {
    answer = await fetch(path, content === undefined ? { cache: "no-store" } : post);
  } catch {
    throw new Error("The server does not answer. Start dsd label again, then go on here.");
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

const url = (id, side) => `/picture/${id}/${side}`;
const loaded = () => sides.every((image) => image.complete && image.naturalWidth > 0 && !image.classList.contains("waiting"));

function say(text, fault = false) {
  element("message").textContent = text;
  element("message").classList.toggle("fault", fault);
}

function enable() {
  const ready = state !== null && state.pair !== null && loaded() && !busy && !broken;
  for (const label of labels) element(label).disabled = !ready;
  element("back").disabled = busy || state === null || visited.length === 0 && !(state.pair === null || state.pair.place > 0);
  element("skip").disabled = busy || state === null || state.pair === null;
}

function show(found) {
  const changed = found.pair?.id !== state?.pair?.id || state === null;
  state = found;
  element("run").textContent = state.run;
  element("person").textContent = state.person;
  element("total").textContent = state.total;
  element("done").textContent = state.done;
  element("left").textContent = state.total - state.done;
  element("bar").setAttribute("aria-valuemax", state.total);
  element("bar").setAttribute("aria-valuenow", state.done);
  for (const label of labels) {
    element(`count-${label}`).textContent = state.counts[label];
    document.querySelector(`.bar .${label}`).style.width = `${(100 * state.counts[label]) / state.total}%`;
    element(label).classList.toggle("chosen", state.pair?.label === label);
  }
  element("question").hidden = state.pair === null;
  element("finished").hidden = state.pair !== null;
  if (state.pair !== null && changed) {
    broken = false;
    since = 0;
    element("subject").textContent = state.pair.subject || state.pair.kind;
    element("caption").textContent = state.pair.caption;
    for (const image of sides) {
      image.classList.add("waiting");
      image.nextElementSibling.hidden = true;
      image.src = url(state.pair.id, image.id);
    }
  }
  if (state.next !== null) for (const image of sides) new Image().src = url(state.next, image.id);
  enable();
}

function arrived(image) {
  image.classList.remove("waiting");
  image.classList.toggle("pixels", image.naturalWidth * 2 <= image.clientWidth);
  if (loaded()) since = performance.now();
  enable();
}

async function failed(image) {
  broken = true;
  enable();
  const asked = image.src;
  let why = "";
  try {
    const answer = await fetch(asked);
    if (!answer.ok) why = (await answer.json()).error;
  } catch {
    why = "The server does not answer.";
  }
  if (image.src !== asked) return; // another pair by now
  const note = image.nextElementSibling;
  note.textContent = `This picture cannot be shown. ${why} Skip the pair, or load the page again.`;
  note.hidden = false;
}

// One request at a time; a fault leaves everything as it stands, so that the same press can be made again.
async function go(path, content, then) {
  if (busy) return;
  busy = true;
  enable();
  try {
    const found = await ask(path, content);
    then(found);
  } catch (error) {
    say(content === undefined ? error.message : `Not saved. ${error.message}`, true);
  } finally {
    busy = false;
    enable();
  }
}

function label(name) {
  if (element(name).disabled) return;
  const { id, place } = state.pair;
  const seconds = (performance.now() - since) / 1000;
  return go("/label", { pair_id: id, label: name, seconds }, (found) => {
    visited.push(place);
    show(found);
    say(`Saved: ${name}. Z goes back.`);
  });
}

function back() {
  if (element("back").disabled) return;
  const place = visited.at(-1) ?? (state.pair === null ? state.total : state.pair.place) - 1;
  return go(`/state?place=${place}`, undefined, (found) => {
    visited.pop();
    show(found);
    say(found.pair.label === null ? "" : `You said ${found.pair.label}. Another label replaces it.`);
  });
}

function skip() {
  if (element("skip").disabled) return;
  const { place } = state.pair;
  return go(`/state?place=${(place + 1) % state.total}`, undefined, (found) => {
    visited.push(place);
    show(found);
    say("");
  });
}

const keys = {
  s: () => label("same"), d: () => label("different"), u: () => label("unsure"),
  1: () => label("same"), 2: () => label("different"), 3: () => label("unsure"),
  z: back, arrowleft: back, arrowright: skip,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = keys[event.key.toLowerCase()];
  if (key === undefined) return;
  event.preventDefault();
  key();
});
for (const name of labels) element(name).addEventListener("click", () => label(name));
element("back").addEventListener("click", back);
element("skip").addEventListener("click", skip);
for (const image of sides) {
  image.addEventListener("load", () => arrived(image));
  image.addEventListener("error", () => failed(image));
}
go("/state", undefined, show);
