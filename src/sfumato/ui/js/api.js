// Client of the HTTP API. The token, where one is needed, is kept for this tab only.

import {$} from "./dom.js";

const TOKEN = "sfumato.token";

/** An error answer of the server, with its message. */
export class Refusal extends Error {
  constructor(status, error) {
    super(error?.message ?? `The server answered ${status}.`);
    this.status = status;
    this.code = error?.code;
    this.param = error?.param;
  }
}

async function call(path, options = {}) {
  for (;;) {
    const headers = {...options.headers};
    const token = sessionStorage.getItem(TOKEN);
    if (token) headers.Authorization = `Bearer ${token}`;
    let response;
    try {
      response = await fetch(path, {...options, headers});
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal(0, {message: "The server cannot be reached; is it still running?"});
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => null);
    if (response.status !== 401) throw new Refusal(response.status, body?.error);
    await askForToken();
  }
}

let asking;
let asked = false;

/** Asks for the token; concurrent calls share one dialog. */
function askForToken() {
  asking ??= new Promise((done) => {
    $("token-wrong").hidden = !asked;
    asked = true;
    $("token").showModal();
    $("token-input").select();
    $("token").addEventListener("close", () => {
      sessionStorage.setItem(TOKEN, $("token-input").value.trim());
      asking = undefined;
      done();
    }, {once: true});
  });
  return asking;
}

const json = async (path, options) => (await call(path, options)).json();

export const info = () => json("/v1/info");
export const schema = () => json("/openapi.json");
export const submit = (form) => json("/v1/jobs", {method: "POST", body: form});
/** A mask file as the server reads it, white on black, with the server's notes. */
export async function readMask(image, mask) {
  const form = new FormData();
  form.append("image", image, "image");
  form.append("mask", mask, "mask");
  const read = await json("/v1/masks", {method: "POST", body: form});
  const bytes = Uint8Array.from(atob(read.mask), (character) => character.charCodeAt(0));
  return {blob: new Blob([bytes], {type: "image/png"}), notes: read.notes};
}
export const job = (id) => json(`/v1/jobs/${id}`);
export const remove = (id) => json(`/v1/jobs/${id}`, {method: "DELETE"});
export const blob = async (path) => (await call(path)).blob();

/**
 * Follow a job's events until it is over; returns the job.
 * Reconnects if the connection breaks; the job goes on meanwhile.
 */
export async function follow(id, {onJob, onPreview}) {
  for (let tries = 0; ; tries++) {
    try {
      const response = await call(`/v1/jobs/${id}/events`);
      let last;
      for await (const {name, data} of events(response.body)) {
        tries = 0;
        if (name === "preview") onPreview(`data:image/jpeg;base64,${data.jpeg}`);
        else onJob((last = data));
      }
      if (last && !["queued", "running"].includes(last.state)) return last;
    } catch (error) {
      if (tries > 5 || (error.status && error.status < 500)) throw error;
    }
    await new Promise((done) => setTimeout(done, 500 * 2 ** Math.min(tries, 4)));
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s)));
      if (fields.data) yield {name: fields.event, data: JSON.parse(fields.data)};
    }
  }
}
