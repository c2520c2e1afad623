// History of edits in this browser: source and mask are stored here, results on the server.

import * as api from "./api.js";
import {$, make, toast} from "./dom.js";
import {nameOf} from "./task.js";

const MOST = 40;

function open() {
  return new Promise((done, fail) => {
    const request = indexedDB.open("sfumato", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("edits", {keyPath: "id"});
    request.onsuccess = () => done(request.result);
    request.onerror = () => fail(request.error);
  });
}

async function store(mode, work) {
  const database = await open();
  try {
    return await new Promise((done, fail) => {
      const request = work(database.transaction("edits", mode).objectStore("edits"));
      request.onsuccess = () => done(request.result);
      request.onerror = () => fail(request.error);
    });
  } finally {
    database.close();
  }
}

async function all() {
  const entries = await store("readonly", (edits) => edits.getAll());
  return entries.sort((a, b) => b.time - a.time);
}

/** entry: {id, time, edit, source, mask, scribble, controls}. Private windows may have no storage; then there is no history. */
export async function remember(entry) {
  try {
    await store("readwrite", (edits) => edits.put(entry));
    for (const old of (await all()).slice(MOST)) await forget(old.id);
  } catch (error) {
    console.warn("no history:", error);
  }
}

const forget = (id) => store("readwrite", (edits) => edits.delete(id));

/** List the edits in their dialog; onOpen gets an entry and its job. */
export async function list(onOpen) {
  const entries = await all().catch(() => []);
  const rows = await Promise.all(entries.map((entry) => row(entry, onOpen)));
  $("history-list").replaceChildren(...rows.filter(Boolean));
  $("history-empty").hidden = $("history-list").children.length > 0;
}

async function row(entry, onOpen) {
  let job;
  try {
    job = await api.job(entry.id);
  } catch (error) {
    if (error.status === 404) await forget(entry.id); // expired on the server
    return null;
  }
  const image = job.result?.images[0];
  const when = new Date(entry.time).toLocaleString(undefined, {dateStyle: "medium", timeStyle: "short"});
  const about = make("span", {}, make("b", {textContent: nameOf(entry.edit.options)}), `${entry.edit.name} · ${when}${image ? "" : ` · ${job.state}`}`);
  const button = make("button", {type: "button", className: "entry", disabled: !image}, make("img", {src: image?.url ?? "/ui/icon.svg", alt: ""}), about);
  button.addEventListener("click", () => {
    $("history").close();
    onOpen(entry, job);
  });
  const remove = make("button", {type: "button", className: "small icon", textContent: "✕", title: "Remove, on the server too"});
  remove.setAttribute("aria-label", `Remove from history: ${nameOf(entry.edit.options)}`);
  const item = make("li", {}, button, remove);
  remove.addEventListener("click", async () => {
    try {
      await api.remove(entry.id);
    } catch (error) {
      if (error.status !== 404) return toast(error.message);
    }
    await forget(entry.id);
    const next = (item.nextElementSibling ?? item.previousElementSibling)?.querySelector(".small") ?? $("history").querySelector("[data-close]");
    item.remove();
    next.focus();
    $("history-empty").hidden = $("history-list").children.length > 0;
  });
  return item;
}
