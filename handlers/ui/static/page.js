// Keep the page current, name the nodes of a picture, and copy commands. The page can be read without all of it.
"use strict";

const FETCH_MILLISECONDS = 1000;
const STALE_MILLISECONDS = 30000;
const ANNOUNCE_MILLISECONDS = 10000;

const live = document.getElementById("live");
const find = () => document.getElementById("main");

// --- Replace what has changed, and leave alone what has not: with it focus, selection, scrolling and what is typed.

function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) { old.data = fresh.data; return; }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !(old.localName === "details" && name === "open")) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const known = new Map([...old.children].reverse().filter((child) => child.id).map((child) => [child.id, child]));
  let next = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const unparsed = "same" in (child.dataset || {});
    const same = unparsed ? kept.get(child.id)
      : child.id ? known.get(child.id) : next && !next.id && alike(next, child) ? next : null;
    if (!same) { old.insertBefore(child, next); fill(child); continue; }
    if (same === next) next = next.nextSibling;
    else old.insertBefore(same, next);
    known.delete(child.id);
    if (!unparsed) morph(same, child);
  }
  while (next) { const after = next.nextSibling; next.remove(); next = after; }
}

function fill(added) {
  for (const row of added.querySelectorAll?.("tr[data-same]") || []) row.replaceWith(kept.get(row.id));
}

function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName;
}

// Rows as the server last sent them. Those that are the same again are not parsed: thousands of elements each time would
// fill the memory faster than browsers free it.
let rows = new Map();
let kept = new Map();

function withoutSameRows(text) {
  const before = rows;
  rows = new Map();
  return text.replace(/<tr id="([^"]*)">[^]*?<\/tr>/g, (row, id) => {
    const same = !rows.has(id) && before.get(id) === row;
    if (!rows.has(id)) rows.set(id, row);
    return same ? `<tr id="${id}" data-same></tr>` : row;
  });
}

function replace(text) {
  const fresh = new DOMParser().parseFromString(withoutSameRows(text), "text/html");
  const main = fresh.getElementById("main");
  if (!main || !main.dataset.change) { location.reload(); return; }
  const focused = document.activeElement;
  const { scrollX, scrollY } = window;
  addButtons(main);
  // A row may have moved to another table, and is taken out of its own before that comes.
  kept = new Map([...find().querySelectorAll("tr[id]")].reverse().map((row) => [row.id, row]));
  morph(find(), main);
  kept.clear();
  if (focused && focused.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
  else if (focused && !focused.isConnected && focused.id) document.getElementById(focused.id)?.focus({ preventScroll: true });
  window.scrollTo(scrollX, scrollY);
  if (document.title !== fresh.title) announce(document.title = fresh.title);
}

// --- Listen, and fetch the page again at most once a second, and less often if that takes long.

let source = null;
let fetching = false;
let wanted = 0;
let earliest = 0;
let current = Date.now();

function say(state, text) {
  if (live.dataset.state === state && live.textContent === text) return;
  live.dataset.state = state;
  live.textContent = text;
}

function listen() {
  if (source || document.hidden) return;
  source = new EventSource("/ui/changes");
  source.addEventListener("changed", (event) => want(Number(event.data)));
  source.onopen = () => { current = Date.now(); say("live", "live"); };
  source.onerror = () => {
    trouble();
    // A browser gives up after an answer that is no stream, such as 401 or 503.
    if (source && source.readyState === EventSource.CLOSED) { source = null; setTimeout(listen, 5000); want(Infinity); }
  };
}

function stop() {
  source?.close();
  source = null;
}

function trouble() {
  if (Date.now() - current < STALE_MILLISECONDS) say("reconnecting", "reconnecting");
  else say("stale", `stale since ${new Date(current).toISOString().slice(11, 19)} UTC`);
}

function want(change) {
  wanted = change;
  if (fetching || wanted === Number(find().dataset.change)) return;
  fetching = true;
  setTimeout(refresh, Math.max(0, earliest - Date.now()));
}

async function refresh() {
  const began = Date.now();
  try {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, signal: AbortSignal.timeout(20000) });
    if (answer.redirected || answer.status === 401 || answer.status === 403) { location.reload(); return; }
    if (!answer.ok) throw new Error(answer.status);
    replace(await answer.text());
    current = Date.now();
    if (source?.readyState === EventSource.OPEN) say("live", "live");
  } catch {
    trouble();
    wanted = Number(find().dataset.change);
  } finally {
    earliest = Date.now() + Math.max(FETCH_MILLISECONDS, 4 * (Date.now() - began));
    fetching = false;
  }
  if (wanted !== Infinity && wanted > Number(find().dataset.change)) want(wanted);
}

// --- Tell screen readers when the number of failures changes, not each time that anything does.

const spoken = document.createElement("p");
spoken.className = "words";
spoken.setAttribute("role", "status");
let speaking = 0;

function announce(text) {
  clearTimeout(speaking);
  const wait = Math.max(0, Number(spoken.dataset.next || 0) - Date.now());
  speaking = setTimeout(() => { spoken.textContent = text; spoken.dataset.next = Date.now() + ANNOUNCE_MILLISECONDS; }, wait);
}

// --- Pictures: the byte of each pixel is the number of its kind, see handlers/ui/pictures.py.

const tip = document.createElement("output");
tip.id = "tip";
tip.hidden = true;
let shown = null;
let unpacked = { picture: "", cells: new Uint8Array() };
let parsed = { text: "", names: [] };

async function unpack(image) {
  if (unpacked.picture === image.src) return unpacked.cells;
  const picture = image.src;
  const bytes = Uint8Array.from(atob(picture.split(",")[1]), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  let at = 8;
  while (view.getUint32(at + 4) !== 0x49444154) at += view.getUint32(at) + 12;
  const packed = new Blob([bytes.subarray(at + 8, at + 8 + view.getUint32(at))]);
  const cells = await new Response(packed.stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
  unpacked = { picture, cells: new Uint8Array(cells) };
  return unpacked.cells;
}

function nodeNames(image) {
  const text = image.closest("[data-nodes]").dataset.nodes;
  if (text !== parsed.text) parsed = { text, names: JSON.parse(text) };
  return parsed.names;
}

async function show(image, column, row, x, y) {
  const rows = Number(image.dataset.rows);
  const names = nodeNames(image);
  const number = column * rows + row;
  if (number < 0 || number >= names.length) { hide(); return; }
  shown = { image, number, column, row, node: names[number] };
  const cells = await unpack(image);
  if (!shown || shown.image !== image || shown.number !== number) return;
  const kinds = JSON.parse(image.dataset.kinds);
  tip.textContent = `${names[number]}: ${kinds[cells[row * (cells.length / rows) + 1 + column]]}`;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${y + 20 + box.height > innerHeight ? y - box.height - 10 : y + 18}px`;
}

function hide() {
  tip.hidden = true;
  shown = null;
}

function cellSize(image) {
  return image.clientHeight / Number(image.dataset.rows);
}

function point(event) {
  const image = event.target;
  if (!image.matches?.("img.strip")) { if (!tip.hidden && event.type === "pointermove") hide(); return; }
  const box = image.getBoundingClientRect();
  const size = cellSize(image);
  show(image, Math.floor((event.clientX - box.left) / size), Math.floor((event.clientY - box.top) / size), event.clientX, event.clientY);
}

function walk(event) {
  const image = document.activeElement?.querySelector?.(":scope img.strip");
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (event.key === "Escape") hide();
  if (!image || !step) return;
  event.preventDefault();
  const rows = Number(image.dataset.rows);
  const sideways = event.key === "ArrowLeft" || event.key === "ArrowRight";
  const number = shown?.image === image ? shown.number + step * (sideways ? rows : 1) : 0;
  const column = Math.floor(number / rows);
  const box = image.getBoundingClientRect();
  const size = cellSize(image);
  show(image, column, number - column * rows, box.left + column * size, box.top + (number - column * rows) * size);
}

function open(event) {
  if (!shown || !event.target.closest?.("a")?.contains(shown.image) || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  location.href = `/ui/nodes/${encodeURIComponent(shown.node)}`;
}

// --- Buttons that copy a command.

function addButtons(root) {
  if (!navigator.clipboard) return;
  for (const place of root.querySelectorAll(".command")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${place.textContent.trim()}`);
    place.append(button);
  }
}

async function copy(event) {
  const button = event.target.closest?.(".command button");
  if (!button) return;
  await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
  button.textContent = "Copied";
}

if (live) {
  document.body.append(spoken, tip);
  addEventListener("pointermove", point, { passive: true });
  addEventListener("keydown", walk);
  addEventListener("click", open);
  addEventListener("scroll", hide, { passive: true, capture: true });
  document.addEventListener("visibilitychange", () => (document.hidden ? stop() : listen()));
  addEventListener("pagehide", stop);
  addEventListener("pageshow", listen);
  setInterval(() => { if (source && source.readyState !== EventSource.OPEN) trouble(); }, 5000);
  addEventListener("click", copy);
  addButtons(document);
  listen();
}
