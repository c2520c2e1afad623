// Entry point of the page: connects its modules.

import * as api from "./api.js";
import {Controls} from "./controls.js";
import {$, make, save, say, toast} from "./dom.js";
import {files} from "./command.js";
import {listenToFiles, pick, TYPES} from "./files.js";
import {Advanced} from "./form.js";
import * as history from "./history.js";
import {Run} from "./job.js";
import {Picture} from "./picture.js";
import {Results} from "./results.js";
import {listenToDie, seed, setSeed} from "./seed.js";
import {listen} from "./shortcuts.js";
import {Task} from "./task.js";
import {Tools} from "./tools.js";
import {View} from "./view.js";

const view = new View($("canvas"));
const tools = new Tools(view);
const run = new Run(view);
const results = new Results(view, (blob, name) => openBlob(blob, name), setMode);
const controls = new Controls(view, tools, () => results.back());
let info;
let advanced;
const task = new Task(view, () => (results.back(), refresh()));

function setMode(mode) {
  $("studio").dataset.mode = mode;
  refresh();
}

// ---- the picture

async function openBlob(blob, name) {
  if (run.busy) return toast("Wait for the edit, or cancel it first.");
  if (!TYPES.includes(blob.type)) return toast("That is no PNG, JPEG, WebP, AVIF or GIF.");
  const within = $("empty").contains(document.activeElement); // the focused element is about to be hidden
  let picture;
  try {
    picture = await Picture.from(blob, name);
  } catch {
    return toast("That file cannot be read as a picture.");
  }
  if (info && picture.width * picture.height > info.limits.pixels) return toast(`The picture has ${(picture.width * picture.height) / 1e6} million pixels and this server takes ${info.limits.pixels / 1e6}: make it smaller, or start the server with a larger --max-pixels.`);
  results.clear();
  picture.addEventListener("change", refresh);
  $("empty").hidden = true;
  for (const [id, most] of [["box-x", picture.width], ["box-y", picture.height], ["box-w", picture.width], ["box-h", picture.height]]) $(id).max = most;
  view.show(picture);
  task.refit();
  controls.setSize(Math.max(4, Math.round(Math.min(picture.width, picture.height) / 9)));
  setMode("paint");
  if (within) $("canvas").focus({preventScroll: true});
  say(`${name} opened, ${picture.width} by ${picture.height} pixels.`);
}

async function openExample() {
  const scene = await (await fetch("/ui/example/scene.png")).blob();
  await openBlob(scene, "scene.png");
  await view.picture.loadMask(await (await fetch("/ui/example/mask.png")).blob());
  if (!$("prompt").value) $("prompt").value = "a red ball";
  refresh();
}

async function loadMask(blob) {
  try {
    const mask = await api.readMask(view.picture.blob, blob);
    await view.picture.loadMask(mask.blob);
    if (mask.notes.length) toast(mask.notes.join(" "));
  } catch (error) {
    toast(error.message);
  }
}

function refresh() {
  const picture = view.picture;
  // Not `disabled`, which would drop the focus when the last step is undone.
  $("undo").setAttribute("aria-disabled", !picture?.done.length);
  $("redo").setAttribute("aria-disabled", !picture?.undone.length);
  const percent = picture ? Math.round(picture.area * 1000) / 10 : 0;
  const problem = task.problem(info?.limits.pixels);
  const hint = problem || task.size || `${percent < 0.1 ? "Less than 0.1" : percent} % of the picture will change.`;
  if ($("hint").textContent !== hint) $("hint").textContent = hint; // it is read out when it changes
  $("run").disabled = Boolean(problem) || !advanced;
  $("canvas").tabIndex = picture ? 0 : -1;
  $("canvas").setAttribute("aria-label", picture ? `${picture.name}, ${picture.width} by ${picture.height} pixels, ${percent} percent masked` : "No picture yet");
  view.draw();
}

// ---- the edit

function options() {
  const given = {prompt: $("prompt").value.trim(), ...task.options(), ...advanced.values()};
  const method = $("method").value;
  const properties = advanced.schema.properties;
  if (method) given.method = method;
  if ($("model").value !== properties.model.default) given.model = $("model").value;
  if ($("n").value !== "") given.n = Number($("n").value);
  given.seed = seed();
  return given;
}

function showNotes(notes, error) {
  $("notes").replaceChildren(...notes.map((note) => make("li", {textContent: note})));
  for (const field of document.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  if (!error) return;
  $("notes").prepend(make("li", {className: "error", textContent: error.message}));
  const field = advanced.input(error.param) ?? $(error.param === "expand" ? "margin-left" : (error.param ?? ""));
  if (!field) return;
  field.setAttribute("aria-invalid", "true");
  field.closest("details")?.setAttribute("open", "");
  field.focus();
}

async function edit() {
  if (run.busy || $("run").disabled) return;
  const {picture} = view;
  const [asked, margins, controls] = [options(), task.margins(), advanced.controls];
  results.clear();
  showNotes([]);
  tools.locked = true;
  try {
    const sources = {source: picture.blob, mask: await picture.maskBlob(), scribble: picture.hasScribble ? await picture.scribbleBlob() : null, controls};
    const hasMask = !margins || picture.area > 0;
    const job = await run.start(picture, asked, view.feather, margins, controls);
    const drawn = job.result && {seed: job.result.request.seed}; // a random seed can be used again
    const said = {...asked, ...drawn, ...(view.feather >= 0 ? {mask_feather: view.feather} : {})};
    const control = controls.map(({name}, i) => ({picture: name, model: advanced.info.control_models[i]}));
    const record = {name: picture.name, hasMask, hasScribble: picture.hasScribble, control, options: said, margins};
    await finished(job, record, sources);
  } catch (error) {
    showNotes([], error);
    toast(error.message);
  } finally {
    tools.locked = false;
    refresh();
  }
}

async function finished(job, record, sources) {
  if (job.state === "succeeded") {
    await showResult(job.result, record);
    await history.remember({id: job.id, time: Date.now(), edit: record, ...sources});
  } else if (job.state === "cancelled") {
    const sentence = "Cancelled; nothing was changed.";
    showNotes([sentence]);
    say(sentence);
  } else {
    throw Object.assign(new Error(job.error?.message ?? `The job was ${job.state}.`), {param: null});
  }
}

async function showResult(result, record) {
  await results.show(result, record);
  showNotes(result.notes);
  const {length} = result.images;
  say([length === 1 ? "One prediction." : `${length} predictions, best first.`, ...result.notes].join(" "));
}

async function reopen(entry, job) {
  if (run.busy) return toast("Wait for the edit, or cancel it first.");
  await openBlob(entry.source, entry.edit.name);
  await view.picture.loadMask(entry.mask);
  if (entry.scribble) {
    const bitmap = await createImageBitmap(entry.scribble);
    view.picture.change((mask, scribble) => scribble.drawImage(bitmap, 0, 0));
  }
  const {prompt, n, seed: used, method, model, mask_feather: feather, task: done, expand, ...rest} = entry.edit.options;
  task.set({task: done, expand});
  Object.assign($("prompt"), {value: prompt});
  if (n !== undefined) $("n").value = n;
  if (used !== undefined) setSeed(used);
  $("method").value = method ?? "";
  $("model").value = model ?? advanced.schema.properties.model.default;
  controls.setFeather(feather ?? -1);
  advanced.show();
  advanced.set(rest);
  advanced.controls = entry.controls ?? [];
  await showResult(job.result, entry.edit);
}

// ---- events

const openFile = () => pick($("file"), (file) => openBlob(file, file.name));
const step = () => Math.max(1, Math.round(Math.min(view.picture.width, view.picture.height) / 100));
const onClick = (id, work) => $(id).addEventListener("click", work);
const withPicture = (work) => () => (view.picture && !run.busy ? (results.back(), work(view.picture)) : false);

onClick("open", openFile);
onClick("open-big", openFile);
onClick("example", openExample);
onClick("undo", withPicture((picture) => picture.undo()));
onClick("redo", withPicture((picture) => picture.redo()));
onClick("invert", withPicture((picture) => picture.invert()));
onClick("grow", withPicture((picture) => picture.grow(step())));
onClick("shrink", withPicture((picture) => picture.grow(-step())));
onClick("clear", withPicture((picture) => picture.clear()));
onClick("load-mask", withPicture(() => pick($("mask-file"), loadMask)));
onClick("save-mask", withPicture(async (picture) => save(await picture.maskBlob(), files(picture.name).mask)));
onClick("zoom-in", () => view.zoom(1.25));
onClick("zoom-out", () => view.zoom(0.8));
onClick("zoom-fit", () => view.fit());
listenToDie(() => results.seed);
onClick("reset", () => advanced?.set({}));
onClick("add-box", withPicture((picture) => {
  const [x, y, width, height] = ["box-x", "box-y", "box-w", "box-h"].map((id) => $(id).valueAsNumber);
  if (![x, y, width, height].every(Number.isInteger) || width < 1 || height < 1) return toast("Give x, y, width and height in whole pixels.");
  picture.box(x, y, width, height);
  say("The box was added to the mask.");
}));
onClick("show-keys", () => $("keys").showModal());
onClick("show-history", () => ($("history").showModal(), history.list(reopen)));
onClick("theme", () => {
  const root = document.documentElement;
  const dark = getComputedStyle(root).colorScheme === "dark";
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("sfumato.theme", root.dataset.theme);
  view.draw();
});
for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
$("prompt").addEventListener("input", refresh);
$("method").addEventListener("change", () => (advanced?.show(), refresh()));
$("form").addEventListener("submit", (event) => (event.preventDefault(), edit()));

listenToFiles(openBlob);

const tool = (name, key, label) => ({keys: [key], shown: [key.toUpperCase()], label, run: () => controls.setTool(name)});
listen(
  [
    tool("brush", "b", "Brush"),
    tool("eraser", "e", "Eraser"),
    tool("box", "r", "Box"),
    tool("scribble", "s", "Scribble"),
    tool("hand", "h", "Move the picture; or hold Space and drag"),
    {keys: ["["], shown: ["["], label: "Smaller brush", run: () => controls.smaller()},
    {keys: ["]"], shown: ["]"], label: "Larger brush", run: () => controls.larger()},
    {keys: ["i"], shown: ["I"], label: "Invert the mask", run: () => $("invert").click()},
    {keys: ["m"], shown: ["M"], label: "Show or hide the mask", run: () => controls.toggleMask()},
    {keys: ["z"], control: true, shown: ["Ctrl", "Z"], label: "Undo", run: () => $("undo").click()},
    {keys: ["z"], control: true, shift: true, shown: ["Ctrl", "Shift", "Z"], label: "Redo", run: () => $("redo").click()},
    {keys: ["y"], control: true, run: () => $("redo").click()},
    {keys: ["+", "="], shown: ["+"], label: "Zoom in; or turn the wheel", run: () => view.zoom(1.25)},
    {keys: ["-"], shown: ["−"], label: "Zoom out", run: () => view.zoom(0.8)},
    {keys: ["0"], shown: ["0"], label: "Fit the picture", run: () => view.fit()},
    {keys: ["o"], shown: ["O"], label: "Open a picture", run: openFile},
    {keys: ["enter"], control: true, everywhere: true, shown: ["Ctrl", "Enter"], label: "Make the edit", run: edit},
    {keys: ["escape"], everywhere: true, shown: ["Esc"], label: "Cancel the edit, or back to painting", run: () => (run.busy ? run.cancel() : results.back())},
    {keys: ["1", "2", "3", "4", "5", "6", "7", "8", "9"], shown: ["1", "…", "9"], label: "Show a prediction", run: chooseByKey},
    {keys: ["?"], shown: ["?"], label: "These shortcuts", run: () => $("keys").showModal()},
  ],
  tools,
);

function chooseByKey(event) {
  return results.result ? void results.choose(Number(event.key) - 1) : false;
}

// ---- models and methods of the server

async function start() {
  info = await api.info();
  const description = await api.schema();
  const {title: usual} = info.methods.find(({name}) => name === info.method);
  $("method").replaceChildren(
    make("option", {value: "", textContent: `Automatic (${usual})`}),
    ...info.methods.map(({name, title}) => make("option", {value: name, textContent: title})),
  );
  $("model").replaceChildren(...info.models.map((name) => make("option", {value: name, textContent: name})));
  task.offer(info.methods);
  $("n").max = info.limits.predictions;
  $("prompt").maxLength = info.limits.prompt_characters;
  advanced = new Advanced(description.components.schemas.JobRequest, info);
  refresh();
}

refresh();
start().catch((error) => toast(error.message));
