// A running edit: submits it, follows and shows its progress, cancels it.

import * as api from "./api.js";
import {$, say} from "./dom.js";

const STAGES = {queued: "Waiting", load: "Loading the model", encode: "Looking at the picture", denoise: "Painting", background: "Restoring the surroundings", rank: "Choosing the best"};

export class Run {
  constructor(view) {
    Object.assign(this, {view, id: null, spoken: 0});
    $("cancel").addEventListener("click", () => this.cancel());
  }

  get busy() {
    return !$("cancel").hidden;
  }

  /** Send an edit and follow it to its end; returns the job. margins: pixels around the picture, or null; controls: files. */
  async start(picture, options, feather, margins, controls) {
    this.#working(true);
    this.view.shownMargins = margins;
    try {
      const form = new FormData();
      form.append("image", picture.blob, "image");
      if (!margins || picture.area > 0) form.append("mask", await picture.maskBlob(), "mask.png");
      if (picture.hasScribble) form.append("scribble", await picture.scribbleBlob(margins ?? undefined), "scribble.png");
      for (const file of controls) form.append("control", file, file.name);
      for (const [name, value] of Object.entries(options)) form.append(name, Array.isArray(value) ? value.join(",") : value);
      form.append("mask_mode", "grey");
      if (feather >= 0) form.append("mask_feather", feather);
      const job = await api.submit(form);
      this.id = job.id;
      this.#show(job);
      return await api.follow(job.id, {onJob: (news) => this.#show(news), onPreview: (address) => this.#preview(address)});
    } finally {
      this.id = null;
      this.view.preview = null;
      this.#working(false);
      this.view.draw();
    }
  }

  async cancel() {
    if (!this.id) return;
    $("cancel").disabled = true;
    await api.remove(this.id).catch(() => {}); // it may be done already
  }

  #working(busy) {
    const focused = document.activeElement;
    $("cancel").hidden = $("progress").hidden = !busy;
    $("cancel").disabled = false;
    $("run").hidden = busy;
    this.spoken = 0;
    this.#bar(0, "Sending");
    // Move the focus only if the hidden button had it.
    if (busy && focused === $("run")) $("cancel").focus({preventScroll: true});
    if (!busy && focused === $("cancel")) $("canvas").focus({preventScroll: true});
    if (busy) {
      say("The edit is on its way. Escape cancels it.");
      $("view").scrollIntoView({block: "nearest"});
    } else document.title = "sfumato";
  }

  #show(job) {
    if (!job.progress || !["queued", "running"].includes(job.state)) return;
    const {stage, step, total, fraction, seconds_left: left} = job.progress;
    const waits = job.state === "queued" && job.position > 0 ? `, ${job.position} before it` : "";
    const steps = stage === "denoise" ? `, step ${step} of ${total}` : "";
    const time = left >= 1 ? `, about ${left < 100 ? `${Math.round(left)} s` : `${Math.round(left / 60)} min`} left` : "";
    this.#bar(fraction, `${STAGES[stage] ?? stage}${waits}${steps}${time}`);
    if (fraction >= this.spoken + 0.25) {
      this.spoken = fraction;
      say(`${Math.round(fraction * 100)} percent`);
    }
  }

  #bar(fraction, text) {
    const percent = Math.round(fraction * 100);
    $("bar").style.width = `${percent}%`;
    $("bar").parentElement.setAttribute("aria-valuenow", percent);
    $("bar").parentElement.setAttribute("aria-valuetext", text);
    $("stage-text").textContent = text;
    document.title = `${percent} % · sfumato`;
  }

  async #preview(address) {
    const image = new Image();
    image.src = address;
    await image.decode();
    if (!this.id) return;
    this.view.preview = image;
    this.view.draw();
  }
}
